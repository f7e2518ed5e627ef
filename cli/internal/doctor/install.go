package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// aliveFor is how long ago a controller's lease may have been renewed for it to count as running.
const aliveFor = time.Minute

const fixInstall = "Install or upgrade: lockstep install --image IMAGE"

func checkKinds(ctx context.Context, s *Subject) ([]Finding, error) {
	wanted, err := manifests.Definitions()
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, want := range wanted {
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(want.GroupVersionKind())
		err := s.Cluster.Get(ctx, client.ObjectKeyFromObject(want), have)
		switch {
		case apierrors.IsNotFound(err):
			out = append(out, problem(fixInstall, "%s is not installed", want.GetName()))
		case err != nil:
			return out, fmt.Errorf("reading the definition %q: %w", want.GetName(), err)
		default:
			same, err := sameSchema(want, have)
			if err != nil {
				return out, err
			}
			if !same {
				out = append(out, warning(fixInstall, "%s has another schema than this program's: what it does not know is dropped in silence", want.GetName()))
			}
		}
	}
	if len(out) == 0 {
		out = append(out, ok("%d kinds, as this program has them", len(wanted)))
	}
	return out, nil
}

// sameSchema compares the schemas of the versions of two definitions.
func sameSchema(a, b *unstructured.Unstructured) (bool, error) {
	x, err := schemas(a)
	if err != nil {
		return false, err
	}
	y, err := schemas(b)
	return reflect.DeepEqual(x, y), err
}

// schemas are read by way of JSON, so that numbers are of one type.
func schemas(u *unstructured.Unstructured) (map[string]any, error) {
	versions, _, err := unstructured.NestedSlice(u.Object, "spec", "versions")
	if err != nil {
		return nil, fmt.Errorf("reading the definition %q: %w", u.GetName(), err)
	}
	data, err := json.Marshal(versions)
	if err != nil {
		return nil, fmt.Errorf("reading the definition %q: %w", u.GetName(), err)
	}
	var read []struct {
		Name   string `json:"name"`
		Schema any    `json:"schema"`
	}
	if err := json.Unmarshal(data, &read); err != nil {
		return nil, fmt.Errorf("reading the definition %q: %w", u.GetName(), err)
	}
	out := map[string]any{}
	for _, v := range read {
		out[v.Name] = v.Schema
	}
	return out, nil
}

func checkController(ctx context.Context, s *Subject) ([]Finding, error) {
	var deployments appsv1.DeploymentList
	labels := client.MatchingLabels{"app.kubernetes.io/name": "lockstep", "app.kubernetes.io/component": "controller"}
	if err := s.list(ctx, "deployments", &deployments, client.InNamespace(v1alpha1.SystemNamespace), labels); err != nil {
		return nil, err
	}
	alive, err := s.leaseHeld(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case len(deployments.Items) == 0 && alive:
		return []Finding{ok("a controller outside of this cluster's %s holds the lease", v1alpha1.SystemNamespace)}, nil
	case len(deployments.Items) == 0:
		return []Finding{problem(fixInstall, "no controller: namespace %s has no Deployment of it, and no lease is held", v1alpha1.SystemNamespace)}, nil
	}
	var out []Finding
	for i := range deployments.Items {
		d := &deployments.Items[i]
		if d.Status.AvailableReplicas == 0 {
			out = append(out, problem("Look at its pods: kubectl -n "+d.Namespace+" describe pods", "deployment %s has no available pod", name(d)))
		}
		out = append(out, s.versionOf(d)...)
	}
	if !alive {
		out = append(out, problem("Look at its log: kubectl -n "+v1alpha1.SystemNamespace+" logs deployment/lockstep-controller",
			"no controller has renewed its lease within %s: nothing is saved and nothing restored", aliveFor))
	}
	return out, nil
}

// versionOf compares the controller's image with the program's.
func (s *Subject) versionOf(d *appsv1.Deployment) []Finding {
	var out []Finding
	for _, c := range d.Spec.Template.Spec.Containers {
		switch {
		case s.Image == "":
			out = append(out, ok("the controller's image is %s; which belongs to this program is not known: it is no release", c.Image))
		case c.Image != s.Image:
			out = append(out, warning(fixInstall, "the controller's image is %s, that of this program %s", c.Image, s.Image))
		default:
			out = append(out, ok("the controller's image is %s", c.Image))
		}
	}
	return out
}

// leaseHeld reports whether a controller has renewed its lease lately.
func (s *Subject) leaseHeld(ctx context.Context) (bool, error) {
	var leases coordinationv1.LeaseList
	if err := s.list(ctx, "leases", &leases, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		return false, err
	}
	for _, l := range leases.Items {
		if l.Spec.RenewTime != nil && s.Now().Sub(l.Spec.RenewTime.Time) < aliveFor {
			return true, nil
		}
	}
	return false, nil
}

func checkPodSecurity(ctx context.Context, s *Subject) ([]Finding, error) {
	var ns corev1.Namespace
	err := s.Cluster.Get(ctx, client.ObjectKey{Name: v1alpha1.SystemNamespace}, &ns)
	if apierrors.IsNotFound(err) {
		return []Finding{problem(fixInstall, "there is no namespace %s", v1alpha1.SystemNamespace)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading namespace %q: %w", v1alpha1.SystemNamespace, err)
	}
	const label = "pod-security.kubernetes.io/enforce"
	switch level := ns.Labels[label]; level {
	case "baseline", "privileged":
		return []Finding{ok("namespace %s enforces %s", ns.Name, level)}, nil
	case "":
		return []Finding{warning("kubectl label namespace "+ns.Name+" "+label+"=baseline",
			"namespace %s says no Pod Security level, so that the cluster's default holds: under \"restricted\" no mover would start", ns.Name)}, nil
	default:
		return []Finding{problem("kubectl label --overwrite namespace "+ns.Name+" "+label+"=baseline",
			"namespace %s enforces %s: movers must read and make files of any owner, and would not be admitted", ns.Name, level)}, nil
	}
}

func checkMovers(ctx context.Context, s *Subject) ([]Finding, error) {
	points, err := s.allPoints(ctx)
	if err != nil {
		return nil, err
	}
	restores, err := s.allRestores(ctx)
	if err != nil {
		return nil, err
	}
	for i := range points {
		for _, v := range points[i].Status.Volumes {
			if v.State == v1alpha1.VolumeSaved {
				return []Finding{ok("a mover has saved claim %s/%s: its image can be pulled here", points[i].Namespace, v.Claim)}, nil
			}
		}
	}
	for i := range restores {
		for _, v := range restores[i].Status.Volumes {
			if v.HydratedAt != nil {
				return []Finding{ok("a mover has filled claim %s/%s: its image can be pulled here", v.Namespace, v.Claim)}, nil
			}
		}
	}
	return []Finding{warning("Take a point: lockstep backup POLICY -n NAMESPACE", "no mover has run in this cluster yet: nothing proves that its image can be "+
		"pulled, and that it is admitted")}, nil
}

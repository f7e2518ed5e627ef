package doctor

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// checkGates looks for deploys that are held and that nobody lets go on, and for such that are to be held and are not.
func checkGates(ctx context.Context, s *Subject) ([]Finding, error) {
	installed, err := s.gateInstalled(ctx)
	if err != nil {
		return nil, err
	}
	gates, err := flux.Flux{Cluster: gitops.Cluster{Client: s.Cluster, Reader: s.Cluster}}.Gates(ctx)
	if err != nil {
		return nil, err
	}
	alive, err := s.leaseHeld(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, g := range gates {
		out = append(out, judgeGate(g, installed, alive))
	}
	if len(gates) == 0 {
		out = append(out, ok("no Kustomization deploys only after a restore point"))
	}
	return out, nil
}

func judgeGate(g flux.Gate, installed, alive bool) Finding {
	const openIt = "Or deploy without a restore point: remove the annotation " + v1alpha1.AnnotationPreDeploy + "."
	switch {
	case !installed:
		return problem("Install what holds deploys: lockstep install --image IMAGE (Kubernetes 1.30 or later).",
			"Kustomization %s is to wait for a restore point before each deploy, and nothing makes it wait", g.Name)
	case g.Mistake != "":
		return problem("Correct it. "+openIt, "Kustomization %s: %s", g.Name, g.Mistake)
	case !alive:
		return problem("Get the controller to run, or remove the gate with it: lockstep uninstall. "+openIt,
			"Kustomization %s deploys nothing new: its deploys wait for a restore point, and no controller runs that takes one", g.Name)
	case !g.Closed():
		return ok("Kustomization %s deploys only after a restore point; none waits now", g.Name)
	case g.Waiting == nil || g.Waiting.To != g.Incoming:
		return warning("Ask again in a minute; then look at the controller's log.", "Kustomization %s waits to deploy %s, and the controller has not said why", g.Name, g.Incoming)
	case g.Waiting.Reason == v1alpha1.ReasonTakingPoint:
		return ok("Kustomization %s waits to deploy %s: %s", g.Name, g.Incoming, g.Waiting.Message)
	}
	return problem("Mend what it says. "+openIt, "Kustomization %s does not deploy %s: %s", g.Name, g.Incoming, g.Waiting.Message)
}

// gateInstalled reports whether all that holds deploys is there.
func (s *Subject) gateInstalled(ctx context.Context) (bool, error) {
	objects, err := manifests.Gate()
	if err != nil {
		return false, err
	}
	for _, want := range objects {
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(want.GroupVersionKind())
		err := s.Cluster.Get(ctx, client.ObjectKeyFromObject(want), have)
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("reading %s %q: %w", want.GetKind(), want.GetName(), err)
		}
	}
	return true, nil
}

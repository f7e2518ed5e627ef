package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

const defaultClass = "storageclass.kubernetes.io/is-default-class"

const fixSnapshots = "Install the snapshot controller and its definitions: https://github.com/kubernetes-csi/external-snapshotter"

func checkSnapshots(ctx context.Context, s *Subject) ([]Finding, error) {
	for _, kind := range []string{"VolumeSnapshotClass", "VolumeSnapshot", "VolumeSnapshotContent"} {
		_, served, err := s.serves(kindOf("snapshot.storage.k8s.io", kind))
		if err != nil {
			return nil, err
		}
		if !served {
			return []Finding{problem(fixSnapshots, "the cluster does not know the kind %s: nothing can be saved here, though a restore needs no snapshots", kind)}, nil
		}
	}
	points, err := s.allPoints(ctx)
	if err != nil {
		return nil, err
	}
	for i := range points {
		if condition(points[i].Status.Conditions).Status == metav1.ConditionTrue && len(points[i].Status.Volumes) > 0 {
			return []Finding{ok("point %s was saved from snapshots", name(&points[i]))}, nil
		}
	}
	var deployments appsv1.DeploymentList
	if err := s.list(ctx, "deployments", &deployments); err != nil {
		return nil, err
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		runs := func(c corev1.Container) bool { return strings.Contains(c.Image, "snapshot-controller") }
		if !slices.ContainsFunc(d.Spec.Template.Spec.Containers, runs) {
			continue
		}
		if d.Status.AvailableReplicas == 0 {
			return []Finding{problem("kubectl -n "+d.Namespace+" describe pods", "the snapshot controller, deployment %s, has no available pod", name(d))}, nil
		}
		return []Finding{ok("the snapshot controller runs: deployment %s", name(d))}, nil
	}
	return []Finding{warning("Take a point to see: lockstep backup POLICY -n NAMESPACE. If it waits for its snapshots: "+fixSnapshots,
		"no snapshot controller is seen here and no point was saved yet; in a managed cluster it may run elsewhere")}, nil
}

// ignoring are provisioners that know nothing of dataSourceRef, and make an empty volume instead.
var ignoring = map[string]string{
	"rancher.io/local-path":           "local-path",
	"k8s.io/minikube-hostpath":        "minikube's host path",
	"docker.io/hostpath":              "Docker Desktop's host path",
	"microk8s.io/hostpath":            "MicroK8s' host path",
	"openebs.io/local":                "OpenEBS LocalPV",
	"cluster.local/nfs-provisioner":   "an external NFS provisioner",
	"kubernetes.io/no-provisioner":    "volumes made by hand",
	"k8s-sigs.io/nfs-subdir-external": "an external NFS provisioner",
}

func checkStorageClasses(ctx context.Context, s *Subject) ([]Finding, error) {
	classes, err := s.allClasses(ctx)
	if err != nil {
		return nil, err
	}
	if len(classes) == 0 {
		return []Finding{problem("Install a storage driver with a StorageClass.", "the cluster has no StorageClass: no volume can be made")}, nil
	}
	var drivers storagev1.CSIDriverList
	if err := s.list(ctx, "CSI drivers", &drivers); err != nil {
		return nil, err
	}
	snapshots, err := s.snapshotClasses(ctx)
	if err != nil {
		return nil, err
	}
	users, err := s.protectedUsers(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	hasDefault := false
	for i := range classes {
		c := &classes[i]
		hasDefault = hasDefault || c.Annotations[defaultClass] == "true"
		known := slices.ContainsFunc(drivers.Items, func(d storagev1.CSIDriver) bool { return d.Name == c.Provisioner })
		out = append(out, class(c, known, snapshots, users[c.Name])...)
	}
	if !hasDefault {
		out = append(out, warning("Mark one as the default.", "no StorageClass is the default: claims of Git that name none would wait for ever"))
	}
	for used, claims := range users {
		if !slices.ContainsFunc(classes, func(c storagev1.StorageClass) bool { return c.Name == used }) {
			out = append(out, problem("Make the class, or plan to map it at a restore.", "there is no StorageClass %q, which protected claims use: %s", used, strings.Join(claims, ", ")))
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Seen, b.Seen) })
	return out, nil
}

// protectedUsers are the protected claims by their class.
func (s *Subject) protectedUsers(ctx context.Context) (map[string][]string, error) {
	policies, err := s.allPolicies(ctx)
	if err != nil {
		return nil, err
	}
	claims, err := s.allClaims(ctx)
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for i := range claims {
		c := &claims[i]
		is, err := isProtected(policies, c)
		if err != nil {
			return nil, err
		}
		if is && c.Annotations[v1alpha1.AnnotationExclude] == "" && c.Spec.StorageClassName != nil {
			users[*c.Spec.StorageClassName] = append(users[*c.Spec.StorageClassName], name(c))
		}
	}
	return users, nil
}

// class judges a StorageClass: hard where protected claims depend on it, softly elsewhere.
func class(c *storagev1.StorageClass, known bool, snapshots []snapshotv1.VolumeSnapshotClass, users []string) []Finding {
	used := ", which no protected claim uses"
	blame := warning
	if len(users) > 0 {
		used, blame = fmt.Sprintf(", used by %s", strings.Join(users, ", ")), problem
	}
	var out []Finding
	if what, bad := ignoring[c.Provisioner]; bad {
		out = append(out, warning("Restore by `lockstep restore`, which does not rely on dataSourceRef; and write no dataSourceRef for this class.",
			"class %s (%s) ignores dataSourceRef: a claim with one would get an empty volume", c.Name, what))
	}
	snapshot := selection.ClassOf(c.Provisioner, snapshots)
	switch {
	case !known && ignoring[c.Provisioner] == "":
		out = append(out, blame("Install the driver, or remove the class.", "class %s: no CSI driver %q is installed%s", c.Name, c.Provisioner, used))
	case snapshot == "":
		out = append(out, blame("Make a VolumeSnapshotClass for the driver.", "class %s: no VolumeSnapshotClass for %q: claims of it cannot be saved%s", c.Name, c.Provisioner, used))
	default:
		out = append(out, ok("class %s: snapshots by class %s%s", c.Name, snapshot, notes(c)))
	}
	return out
}

// notes tells what is good to know of a class.
func notes(c *storagev1.StorageClass) string {
	note := ""
	if c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer {
		note += "; its volumes are made when a pod is placed"
	} else {
		note += "; its volumes are made at once, which in a cluster of several zones may be where no pod can run"
	}
	if c.ReclaimPolicy == nil || *c.ReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		note += "; deleting a claim deletes its data"
	}
	return note
}

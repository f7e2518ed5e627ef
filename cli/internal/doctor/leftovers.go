package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func checkStalled(ctx context.Context, s *Subject) ([]Finding, error) {
	points, err := s.allPoints(ctx)
	if err != nil {
		return nil, err
	}
	restores, err := s.allRestores(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for i := range restores {
		r := &restores[i]
		if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionStalled); c != nil && c.Status == metav1.ConditionTrue {
			out = append(out, warning("lockstep describe restore/"+r.Name+" -n "+r.Namespace+"; delete it when it is not needed any more",
				"restore %s has stopped: %s: %s", name(r), c.Reason, c.Message))
		}
	}
	newest := map[string]time.Time{}
	for i := range points {
		p := &points[i]
		key := p.Namespace + "/" + p.Spec.PolicyRef.Name
		if condition(p.Status.Conditions).Status == metav1.ConditionTrue && p.CreationTimestamp.After(newest[key]) {
			newest[key] = p.CreationTimestamp.Time
		}
	}
	for i := range points {
		p := &points[i]
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionStalled)
		if c == nil || c.Status != metav1.ConditionTrue || p.CreationTimestamp.Time.Before(newest[p.Namespace+"/"+p.Spec.PolicyRef.Name]) {
			continue // a later success makes up for a failure
		}
		out = append(out, problem("lockstep describe point/"+p.Name+" -n "+p.Namespace, "point %s has failed: %s: %s", name(p), c.Reason, c.Message))
	}
	if len(out) == 0 {
		out = append(out, ok("%d points and %d restores", len(points), len(restores)))
	}
	return out, nil
}

// temporary are the kinds of what a backup or a restore makes for itself, and takes away again.
var temporary = []schema.GroupKind{
	kindOf("", "PersistentVolumeClaim"), kindOf("", "PersistentVolume"), kindOf("batch", "Job"),
	kindOf("snapshot.storage.k8s.io", "VolumeSnapshot"), kindOf("snapshot.storage.k8s.io", "VolumeSnapshotContent"),
}

// checkOrphans looks for such objects whose owner is gone: the finalizer of the owner takes them away, unless somebody took away
// the finalizer.
func checkOrphans(ctx context.Context, s *Subject) ([]Finding, error) {
	owners, err := s.owners(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, kind := range temporary {
		for _, label := range []string{v1alpha1.LabelRestore, v1alpha1.LabelRestorePoint} {
			all, err := s.objects(ctx, kind, client.HasLabels{label})
			if err != nil {
				return out, err
			}
			for _, u := range all {
				if !owners[u.GetLabels()[label]] && isTemporary(u) {
					out = append(out, warning(discard(u), "%s %s was made for a %s that is gone", kind.Kind, name(&u), ownerKind(label)))
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Seen, b.Seen) })
	if len(out) == 0 {
		out = append(out, ok("no temporary object without an owner"))
	}
	return out, nil
}

// owners are the UIDs of the points and restores that there are.
func (s *Subject) owners(ctx context.Context) (map[string]bool, error) {
	points, err := s.allPoints(ctx)
	if err != nil {
		return nil, err
	}
	restores, err := s.allRestores(ctx)
	if err != nil {
		return nil, err
	}
	owners := map[string]bool{}
	for i := range points {
		owners[string(points[i].UID)] = true
	}
	for i := range restores {
		owners[string(restores[i].UID)] = true
	}
	return owners, nil
}

// isTemporary tells what is left over from what was handed over: a bound claim of an application and its volume keep the mark of
// the restore that filled them.
func isTemporary(u unstructured.Unstructured) bool {
	switch u.GetKind() {
	case "PersistentVolumeClaim":
		return u.GetNamespace() == v1alpha1.SystemNamespace || text(u, "status", "phase") != "Bound"
	case "PersistentVolume":
		_, kept := u.GetAnnotations()[v1alpha1.AnnotationReclaimPolicy]
		return kept
	}
	return true
}

func ownerKind(label string) string {
	if label == v1alpha1.LabelRestore {
		return "Restore"
	}
	return "RestorePoint"
}

// discard says how to be rid of a leftover, or why to look twice.
func discard(u unstructured.Unstructured) string {
	kind := strings.ToLower(u.GetKind())
	switch {
	case u.GetKind() == "PersistentVolume":
		return fmt.Sprintf("It is kept from being reclaimed. See which claim has it; when its data is not needed: kubectl delete pv %s, and its storage", u.GetName())
	case u.GetKind() == "PersistentVolumeClaim" && u.GetNamespace() != v1alpha1.SystemNamespace:
		return fmt.Sprintf("It is reserved and has no data, and its workload waits for it. Delete the workload, then: kubectl -n %s delete pvc %s; and restore again",
			u.GetNamespace(), u.GetName())
	case u.GetNamespace() == "":
		return fmt.Sprintf("kubectl delete %s %s", kind, u.GetName())
	}
	return fmt.Sprintf("kubectl -n %s delete %s %s", u.GetNamespace(), kind, u.GetName())
}

package backup

import (
	"context"
	"fmt"
	"slices"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// +kubebuilder:rbac:groups=groupsnapshot.storage.k8s.io,resources=volumegroupsnapshots,verbs=get;create;delete
// +kubebuilder:rbac:groups=groupsnapshot.storage.k8s.io,resources=volumegroupsnapshotclasses,verbs=list
// +kubebuilder:rbac:groups=snapshot.storage.k8s.io,resources=volumesnapshots,verbs=list

// Kinds of group snapshots. Their versions up to v1 are alike in what is used here: the newest that the cluster serves is taken.
var (
	groupKind      = schema.GroupKind{Group: groupv1.GroupName, Kind: "VolumeGroupSnapshot"}
	groupClassKind = schema.GroupKind{Group: groupv1.GroupName, Kind: "VolumeGroupSnapshotClass"}
)

// groupOf says how one snapshot of all claims is to be had, if the policy wants one.
func (r *Reconciler) groupOf(ctx context.Context, p *v1alpha1.RestorePoint, pol *v1alpha1.ProtectionPolicy, claims []corev1.PersistentVolumeClaim) (*v1alpha1.SnapshotGroup, error) {
	if pol.Spec.Snapshots != v1alpha1.SnapshotsGroup {
		return nil, nil
	}
	mapping, err := r.Client.RESTMapper().RESTMapping(groupKind)
	if meta.IsNoMatchError(err) {
		return nil, lacksForGood(v1alpha1.ReasonGroupSnapshotUnavailable, "policy %q wants one snapshot of all volumes, and the cluster does not serve VolumeGroupSnapshots", pol.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the version of VolumeGroupSnapshots: %w", err)
	}
	var all corev1.PersistentVolumeClaimList
	if err := r.Reader.List(ctx, &all, client.InNamespace(pol.Namespace)); err != nil {
		return nil, fmt.Errorf("listing claims: %w", err)
	}
	labels, err := groupLabels(pol, claims, all.Items)
	if err != nil {
		return nil, err
	}
	volumes := map[string]*corev1.PersistentVolume{}
	for i := range claims {
		if volumes[claims[i].Name], err = r.volumeOf(ctx, &claims[i]); err != nil {
			return nil, err
		}
	}
	driver, err := groupDriver(claims, volumes)
	if err != nil {
		return nil, err
	}
	version := mapping.GroupVersionKind.Version
	classes, err := r.groupClasses(ctx, version)
	if err != nil {
		return nil, err
	}
	class, err := groupClass(driver, classes)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.SnapshotGroup{Name: "ls-" + string(p.UID), Class: class, Version: version, MatchLabels: labels}, nil
}

func (r *Reconciler) groupClasses(ctx context.Context, version string) ([]groupv1.VolumeGroupSnapshotClass, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(groupClassKind.WithVersion(version))
	list.SetKind(groupClassKind.Kind + "List")
	if err := r.Reader.List(ctx, list); err != nil {
		return nil, fmt.Errorf("listing group snapshot classes: %w", err)
	}
	out := make([]groupv1.VolumeGroupSnapshotClass, len(list.Items))
	for i := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &out[i]); err != nil {
			return nil, fmt.Errorf("reading group snapshot class %q: %w", list.Items[i].GetName(), err)
		}
	}
	return out, nil
}

// takeGroup asks for one snapshot of all claims.
func (r *Reconciler) takeGroup(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	for i := range p.Status.Volumes {
		if _, err := r.source(ctx, p, &p.Status.Volumes[i]); err != nil {
			return r.refuse(p, err)
		}
	}
	g := p.Status.Group
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&groupv1.VolumeGroupSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: g.Name, Labels: labels(p)},
		Spec: groupv1.VolumeGroupSnapshotSpec{
			VolumeGroupSnapshotClassName: &g.Class,
			Source:                       groupv1.VolumeGroupSnapshotSource{Selector: &metav1.LabelSelector{MatchLabels: g.MatchLabels}},
		},
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	u := &unstructured.Unstructured{Object: object}
	u.SetGroupVersionKind(groupKind.WithVersion(g.Version))
	if err := r.create(ctx, u); err != nil {
		return ctrl.Result{}, err
	}
	return r.progress(p, "taking one snapshot of all volumes", r.Limits.Soon)
}

// observeGroup reads the group snapshot of a point; nil if there is none, or none is wanted.
func (r *Reconciler) observeGroup(ctx context.Context, p *v1alpha1.RestorePoint) (*groupv1.VolumeGroupSnapshot, error) {
	if p.Status.Group == nil {
		return nil, nil
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(groupKind.WithVersion(p.Status.Group.Version))
	u, err := get(ctx, r.Reader, u, p.Namespace, p.Status.Group.Name)
	if err != nil || u == nil {
		return nil, err
	}
	g := &groupv1.VolumeGroupSnapshot{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, g); err != nil {
		return nil, fmt.Errorf("reading group snapshot %q: %w", u.GetName(), err)
	}
	return g, nil
}

// members are the snapshots that the group made, one of each claim.
func (r *Reconciler) members(ctx context.Context, p *v1alpha1.RestorePoint) ([]snapshotv1.VolumeSnapshot, error) {
	var list snapshotv1.VolumeSnapshotList
	if err := r.Reader.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(s snapshotv1.VolumeSnapshot) bool { return !inGroup(p.Status.Group.Name, &s) }), nil
}

func (r *Reconciler) member(ctx context.Context, p *v1alpha1.RestorePoint, claim string) (*snapshotv1.VolumeSnapshot, error) {
	all, err := r.members(ctx, p)
	return memberOf(p.Status.Group.Name, claim, all), err
}

// cleanGroup deletes the group snapshot, and with it the storage's snapshots of all volumes; its class has it so.
func (r *Reconciler) cleanGroup(ctx context.Context, p *v1alpha1.RestorePoint) (gone bool, err error) {
	if p.Status.Group == nil {
		return true, nil
	}
	g, err := r.observeGroup(ctx, p)
	switch {
	case err != nil:
		return false, err
	case g != nil && g.DeletionTimestamp != nil:
		return false, nil
	case g != nil:
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(groupKind.WithVersion(p.Status.Group.Version))
		u.SetNamespace(g.Namespace)
		u.SetName(g.Name)
		return false, r.remove(ctx, u)
	}
	left, err := r.members(ctx, p)
	return len(left) == 0, err
}

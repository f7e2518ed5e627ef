package backup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/backup"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

const (
	groupProtector  = "groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-bound-protection"
	memberProtector = "snapshot.storage.kubernetes.io/volumesnapshot-in-group-protection"
	memberPrefix    = "member-of-"
)

// takeGroups does what the snapshot controller and a driver that knows group snapshots would: it looks at matchLabels alone, makes a
// snapshot of each claim that the group then owns, and deletes them with the group and not before.
func (k *cluster) takeGroups(ctx context.Context) {
	k.t.Helper()
	var groups groupv1.VolumeGroupSnapshotList
	k.check(k.c.List(ctx, &groups))
	for i := range groups.Items {
		g := &groups.Items[i]
		switch {
		case g.DeletionTimestamp != nil:
			k.dropGroup(ctx, g)
		case k.broken["group"] != "":
			g.Status = &groupv1.VolumeGroupSnapshotStatus{Error: &snapshotv1.VolumeSnapshotError{Message: new(k.broken["group"])}}
			k.check(k.c.Status().Update(ctx, g))
		case controllerutil.AddFinalizer(g, groupProtector):
			k.check(k.c.Update(ctx, g))
		case g.Status == nil:
			now := metav1.Now() // the storage's moment, before there is any member to see
			g.Status = &groupv1.VolumeGroupSnapshotStatus{CreationTime: &now}
			k.check(k.c.Status().Update(ctx, g))
		case g.Status.ReadyToUse == nil:
			var claims corev1.PersistentVolumeClaimList
			k.check(k.c.List(ctx, &claims, client.InNamespace(g.Namespace), client.MatchingLabels(g.Spec.Source.Selector.MatchLabels)))
			for j := range claims.Items {
				k.takeMember(ctx, g, &claims.Items[j])
			}
			g.Status.ReadyToUse = new(true)
			k.check(k.c.Status().Update(ctx, g))
		}
	}
}

func (k *cluster) takeMember(ctx context.Context, g *groupv1.VolumeGroupSnapshot, claim *corev1.PersistentVolumeClaim) {
	k.t.Helper()
	pv := &corev1.PersistentVolume{}
	k.check(k.c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv))
	name := fmt.Sprintf("snapshot-%s-%s", g.UID, claim.Name)
	handle := memberPrefix + name
	k.snapshots[handle] = k.copyOf(k.volumes[pv.Spec.CSI.VolumeHandle])
	s := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: name, Finalizers: []string{memberProtector}, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: groupv1.SchemeGroupVersion.String(), Kind: "VolumeGroupSnapshot", Name: g.Name, UID: g.UID}}},
		Spec: snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim.Name}},
	}
	k.check(k.c.Create(ctx, s))
	content := &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: "snapcontent-" + name, Finalizers: []string{protector}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, Source: snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &pv.Spec.CSI.VolumeHandle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: s.Namespace, Name: s.Name, UID: s.UID},
		},
	}
	k.check(k.c.Create(ctx, content))
	content.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle, ReadyToUse: new(true), VolumeGroupSnapshotHandle: new(string(g.UID))}
	k.check(k.c.Status().Update(ctx, content))
	s.Status = &snapshotv1.VolumeSnapshotStatus{ReadyToUse: new(true), CreationTime: g.Status.CreationTime, RestoreSize: new(resource.MustParse("1Gi")),
		BoundVolumeSnapshotContentName: &content.Name, VolumeGroupSnapshotName: &g.Name}
	k.check(k.c.Status().Update(ctx, s))
}

func (k *cluster) dropGroup(ctx context.Context, g *groupv1.VolumeGroupSnapshot) {
	k.t.Helper()
	var members snapshotv1.VolumeSnapshotList
	k.check(k.c.List(ctx, &members, client.InNamespace(g.Namespace)))
	for i := range members.Items {
		if s := &members.Items[i]; controllerutil.RemoveFinalizer(s, memberProtector) {
			k.check(k.c.Update(ctx, s))
			k.check(k.c.Delete(ctx, s))
		}
	}
	controllerutil.RemoveFinalizer(g, groupProtector)
	k.check(k.c.Update(ctx, g))
}

// grouped makes a policy that wants one snapshot of all volumes, and a class for it.
func (w *world) grouped(t *testing.T, edit func(*v1alpha1.ProtectionPolicy, *groupv1.VolumeGroupSnapshotClass)) {
	t.Helper()
	pol, class := &v1alpha1.ProtectionPolicy{}, &groupv1.VolumeGroupSnapshotClass{Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, pol))
	pol.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: "grouped", Annotations: pol.Annotations}
	pol.Spec.Snapshots, class.Name = v1alpha1.SnapshotsGroup, "together"
	if edit != nil {
		edit(pol, class)
	}
	w.create(pol, class)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		must(t, w.c.Delete(ctx, pol))
		must(t, w.c.Delete(ctx, class))
	})
}

func testGroup(t *testing.T, w *world) {
	w.grouped(t, nil)
	p := w.requestOf("grouped", "grouped")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	if g := p.Status.Group; g == nil || g.Class != "together" || g.Version != "v1" || g.Name == "" {
		t.Fatalf("before it is asked for: %+v", g)
	}
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.Taken != nil }))
	var each snapshotv1.VolumeSnapshotList
	must(t, w.c.List(t.Context(), &each, client.InNamespace(namespace)))
	for _, s := range each.Items {
		if len(s.OwnerReferences) == 0 {
			t.Errorf("snapshot %s is of no group", s.Name)
		}
	}
	must(t, w.run(w.c, p, cleaned))
	if !conditions.IsReady(p) || len(p.Status.Volumes) != 2 {
		t.Fatalf("%+v", p.Status)
	}
	for _, v := range p.Status.Volumes {
		if !v.Taken.Equal(p.Status.Taken) || v.Consistency != v1alpha1.ConsistencyCrash {
			t.Errorf("claim %s: %s, %s; the point is of %s", v.Claim, v.Taken, v.Consistency, p.Status.Taken)
		}
	}
	record, err := catalog.Get(t.Context(), w.vault, p.Status.ID)
	must(t, err)
	if !record.Group || len(record.Volumes) != 2 || record.Volumes[0].Snapshot == record.Volumes[1].Snapshot {
		t.Errorf("%+v", record)
	}
}

// testGroupKilled ends the controller after each of its writes, until the snapshot is named in lockstep-system, and when it is taken down
// again. What is between is testKilled's.
func testGroupKilled(t *testing.T, w *world) {
	w.grouped(t, func(p *v1alpha1.ProtectionPolicy, _ *groupv1.VolumeGroupSnapshotClass) {
		p.Spec.Volumes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	})
	started := func(p *v1alpha1.RestorePoint) bool {
		return len(p.Status.Volumes) > 0 && p.Status.Volumes[0].Attempts > 0
	}
	gone := func(*v1alpha1.RestorePoint) bool { return false }
	for n, up, down := 1, true, true; up || down; n++ {
		p := w.requestOf(fmt.Sprintf("group-killed-%d", n), "grouped")
		dies := func(again bool, done func(*v1alpha1.RestorePoint) bool) bool {
			c := w.c
			if again {
				c = (&testenv.Mortal{At: n}).Client(w.c)
			}
			err := client.IgnoreNotFound(w.run(c, p, done))
			if errors.Is(err, testenv.ErrDead) {
				w.cluster.step(t.Context())
				must(t, client.IgnoreNotFound(w.run(w.c, p, done)))
				return true
			}
			must(t, err)
			return false
		}
		up = dies(up, started)
		if conditions.IsStalled(p) {
			t.Fatalf("killed after write %d: %+v", n, p.Status)
		}
		must(t, w.c.Delete(t.Context(), p))
		down = dies(down, gone)
		w.expectNothingLeft()
	}
}

// unserved is a cluster that knows no group snapshots.
type unserved struct{ client.WithWatch }

func (unserved) RESTMapper() meta.RESTMapper { return meta.NewDefaultRESTMapper(nil) }

func testGroupRefuses(t *testing.T, w *world) {
	defer func() { w.t, w.cluster.t = t, t }()
	for name, tt := range map[string]struct {
		edit         func(*v1alpha1.ProtectionPolicy, *groupv1.VolumeGroupSnapshotClass)
		c            client.Client
		broken       string
		reason, says string
	}{
		"the cluster has none": {c: unserved{w.c}, reason: v1alpha1.ReasonGroupSnapshotUnavailable, says: "the cluster does not serve VolumeGroupSnapshots"},
		"a class of another driver": {edit: func(_ *v1alpha1.ProtectionPolicy, c *groupv1.VolumeGroupSnapshotClass) { c.Driver = "other" },
			reason: v1alpha1.ReasonGroupSnapshotUnavailable, says: `no VolumeGroupSnapshotClass for the driver "csi.example.test"`},
		"a class that keeps": {edit: func(_ *v1alpha1.ProtectionPolicy, c *groupv1.VolumeGroupSnapshotClass) {
			c.DeletionPolicy = snapshotv1.VolumeSnapshotContentRetain
		}, reason: v1alpha1.ReasonGroupSnapshotUnavailable, says: `"together" keeps every snapshot`},
		"expressions": {edit: func(p *v1alpha1.ProtectionPolicy, _ *groupv1.VolumeGroupSnapshotClass) {
			p.Spec.Volumes.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
		}, reason: v1alpha1.ReasonInvalidSpec, says: "takes no notice of matchExpressions"},
		"the storage cannot": {broken: "volumes are in two pools", reason: v1alpha1.ReasonSnapshotFailed, says: "volumes are in two pools"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t, w.cluster.t = t, t
			w.grouped(t, tt.edit)
			w.cluster.broken["group"] = tt.broken
			defer delete(w.cluster.broken, "group")
			c := client.Client(w.c)
			if tt.c != nil {
				c = tt.c
			}
			p := w.requestOf("no-group-"+strings.ReplaceAll(name, " ", "-"), "grouped")
			for p.Status.StartedAt == nil && !cleaned(p) {
				must(t, w.run(c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil || cleaned(p) }))
			}
			w.clock.now = w.clock.now.Add(backup.DefaultLimits().Cut)
			must(t, w.run(c, p, cleaned))
			w.expectFailure(p, tt.reason, tt.says)
			w.expectNothingLeft()
		})
	}
}

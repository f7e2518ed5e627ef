package populator

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lockstep-dr/lockstep/controller/internal/trees"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

var (
	now    = time.Date(2026, 3, 2, 4, 0, 0, 0, time.UTC)
	commit = strings.Repeat("a", 40)
	older  = strings.Repeat("b", 40)
)

// vaults is one vault, or none that answers.
type vaults struct {
	vault *volume.Vault
	err   error
}

func (v *vaults) Open(context.Context, string) (*volume.Vault, error) { return v.vault, v.err }

func at(commit string) v1alpha1.Revision {
	return v1alpha1.Revision{Repository: "https://git.example.org/shop", Ref: "main", Commit: commit, Path: "deploy", Tree: "tree-" + commit}
}

func pointOf(id, commit, claim string) point.Record {
	return point.Record{
		Version: point.Version, ID: id, Application: "shop/shop", Revision: at(commit), Trigger: v1alpha1.TriggerManual,
		Taken: now.Add(-time.Hour), Completed: now.Add(-time.Hour),
		Volumes: []point.Volume{{Namespace: "shop", Claim: claim, Snapshot: "s", ContentRoot: "c", MetaRoot: "m"}},
	}
}

// scene is a claim that waits, its policy, and a vault.
type scene struct {
	*Reconciler
	t      *testing.T
	vaults *vaults
	claim  *corev1.PersistentVolumeClaim
	policy *v1alpha1.ProtectionPolicy
	events *record.FakeRecorder
}

func newScene(t *testing.T, points ...point.Record) *scene {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := volume.Create(t.Context(), storetest.NewMemory(), identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if err := catalog.Put(t.Context(), v, p); err != nil {
			t.Fatal(err)
		}
	}
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), v1alpha1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	revision, err := json.Marshal(at(commit))
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{
		t: t, vaults: &vaults{vault: v}, events: record.NewFakeRecorder(100),
		policy: &v1alpha1.ProtectionPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", Annotations: map[string]string{v1alpha1.AnnotationDeploying: string(revision)}},
			Spec:       v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}},
		},
		claim: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "0123", CreationTimestamp: metav1.NewTime(now)},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: new("fast"),
				DataSourceRef:    &corev1.TypedObjectReference{APIGroup: new("lockstep.dev"), Kind: "ProtectionPolicy", Name: "shop"},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
		},
	}
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	c := fake.NewClientBuilder().WithScheme(known).WithObjects(
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "wait"}, VolumeBindingMode: &wait},
	).Build()
	s.Reconciler = &Reconciler{Client: c, Reader: c, Events: s.events, Vaults: s.vaults, Now: func() time.Time { return now }, Trees: &trees.Trees{Reader: c}}
	return s
}

// reconcile creates what the scene has, reconciles twice, as a controller that dies in between, and returns what the claim
// says and the Restore that was made, nil if none.
func (s *scene) reconcile(others ...client.Object) (string, *v1alpha1.Restore) {
	s.t.Helper()
	ctx := s.t.Context()
	for _, o := range append(others, s.claim, s.policy) {
		if err := s.Client.Create(ctx, o); err != nil {
			s.t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := s.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(s.claim)}); err != nil {
			s.t.Fatal(err)
		}
	}
	claim := &corev1.PersistentVolumeClaim{}
	if err := s.Client.Get(ctx, client.ObjectKeyFromObject(s.claim), claim); err != nil {
		s.t.Fatal(err)
	}
	var list v1alpha1.RestoreList
	if err := s.Client.List(ctx, &list, client.InNamespace("shop")); err != nil {
		s.t.Fatal(err)
	}
	if len(list.Items) > 1 {
		s.t.Errorf("%d restores were made", len(list.Items))
	}
	for i := range list.Items {
		if list.Items[i].Name == "populate-0123" {
			return claim.Annotations[v1alpha1.AnnotationPopulation], &list.Items[i]
		}
	}
	return claim.Annotations[v1alpha1.AnnotationPopulation], nil
}

// TestAnswers: found, proven absent, and everything that is neither.
func TestAnswers(t *testing.T) {
	mine, ofOld, ofOther := pointOf("20260302-030000-aaaaaaaa", commit, "data"), pointOf("20260302-020000-bbbbbbbb", older, "data"),
		pointOf("20260302-010000-cccccccc", commit, "other")
	tests := []struct {
		name   string
		points []point.Record
		change func(*scene)
		says   string
		want   *v1alpha1.RestoreSpec // of the volumes and the point
	}{
		{"found", []point.Record{mine, ofOld}, nil, "Restoring: from point " + mine.ID, filled(mine.ID)},
		{"found by its tree", []point.Record{ofOld}, func(s *scene) {
			s.deploys(v1alpha1.Revision{
				Repository: "https://git.example.org/shop", Commit: commit, Path: "deploy", Tree: "tree-" + older,
			})
		}, "Restoring: from point " + ofOld.ID, filled(ofOld.ID)},
		{"first deploy", nil, nil, "StartsEmpty: vault \"primary\" has answered and holds no point of application shop/shop", empty()},
		{"a claim of another policy's points", []point.Record{ofOther}, nil, "StartsEmpty: point " + ofOther.ID, empty()},
		{"data of another commit", []point.Record{ofOld}, nil, "Undecided: vault", nil},
		{"a person lets it begin empty", []point.Record{ofOld}, func(s *scene) {
			metav1.SetMetaDataAnnotation(&s.claim.ObjectMeta, v1alpha1.AnnotationStartEmpty, "old rubbish")
		}, "StartsEmpty: a person asked for it: old rubbish", empty()},
		{"vault does not answer", []point.Record{mine}, func(s *scene) { s.vaults.err = errors.New("connection refused") }, "Unknown: connection refused", nil},
		{"revision unknown", []point.Record{mine}, func(s *scene) { s.policy.Annotations = nil }, "Unknown: nothing says which commit is running", nil},
		{"revision garbled", []point.Record{mine}, func(s *scene) { s.policy.Annotations[v1alpha1.AnnotationDeploying] = "{" }, "Unknown: annotation", nil},
		{"no policy", []point.Record{mine}, func(s *scene) { s.claim.Spec.DataSourceRef.Name = "other" }, `Unknown: there is no ProtectionPolicy "shop/other"`, nil},
		{"policy elsewhere", []point.Record{mine}, func(s *scene) { s.claim.Spec.DataSourceRef.Namespace = new("bank") }, "Refused: ", nil},
		{"another kind of source", []point.Record{mine}, func(s *scene) { s.claim.Spec.DataSourceRef.Kind = "VolumeSnapshot" }, "", nil},
		{"reserved by a restore", []point.Record{mine}, func(s *scene) { s.claim.Spec.VolumeName = "pv" }, "", nil},
		{"waits for a place", []point.Record{mine}, func(s *scene) { s.claim.Spec.StorageClassName = new("wait") }, "Waiting: ", nil},
		{"has a place", []point.Record{mine}, func(s *scene) {
			s.claim.Spec.StorageClassName = new("wait")
			metav1.SetMetaDataAnnotation(&s.claim.ObjectMeta, annotationSelectedNode, "node")
		}, "Restoring: ", filled(mine.ID)},
		{"waited long enough", []point.Record{mine}, func(s *scene) {
			s.claim.Spec.StorageClassName = new("wait")
			s.claim.CreationTimestamp = metav1.NewTime(now.Add(-patience))
		}, "Restoring: ", filled(mine.ID)},
		{"empty waits for its pod for ever", nil, func(s *scene) {
			s.claim.Spec.StorageClassName = new("wait")
			s.claim.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
		}, "Waiting: ", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, tt.points...)
			if tt.change != nil {
				tt.change(s)
			}
			says, restore := s.reconcile()
			if !strings.HasPrefix(says, tt.says) || tt.says == "" && says != "" {
				t.Errorf("the claim says %q, want %q", says, tt.says)
			}
			switch {
			case (restore != nil) != (tt.want != nil):
				t.Fatalf("made %+v, want %+v", restore, tt.want)
			case restore == nil:
				return
			}
			if got := restore.Spec; got.From.RestorePoint != tt.want.From.RestorePoint || len(got.Volumes) != 1 || got.Volumes[0] != tt.want.Volumes[0] {
				t.Errorf("asks for %+v, want %+v", got, tt.want)
			}
			if refs := restore.OwnerReferences; len(refs) != 1 || refs[0].UID != "0123" {
				t.Errorf("owned by %+v", refs)
			}
		})
	}
}

func (s *scene) deploys(r v1alpha1.Revision) {
	data, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.policy.Annotations[v1alpha1.AnnotationDeploying] = string(data)
}

func filled(id string) *v1alpha1.RestoreSpec {
	return &v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: id}, Volumes: []v1alpha1.VolumeRequest{{Claim: "shop/data"}}}
}

func empty() *v1alpha1.RestoreSpec {
	return &v1alpha1.RestoreSpec{Volumes: []v1alpha1.VolumeRequest{{Claim: "shop/data", Empty: true}}}
}

// TestARestoreGoesFirst: what a Restore of a commit fills, or may fill, is left to it; what it does not fill begins with its commit.
func TestARestoreGoesFirst(t *testing.T) {
	restore := func(change func(*v1alpha1.Restore)) *v1alpha1.Restore {
		r := &v1alpha1.Restore{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "all"},
			Spec:       v1alpha1.RestoreSpec{Source: v1alpha1.GitSource{URL: "https://git.example.org/shop"}},
		}
		change(r)
		return r
	}
	revision := at(older)
	tests := []struct {
		name   string
		change func(*v1alpha1.Restore)
		says   string
		made   bool
	}{
		{"not planned yet", func(*v1alpha1.Restore) {}, "Unknown: restore lockstep-system/all is under way", false},
		{"fills it", func(r *v1alpha1.Restore) {
			r.Status.Volumes = []v1alpha1.VolumeRestore{{Namespace: "shop", Claim: "data"}}
		}, "", false},
		{"fills another of its commit", func(r *v1alpha1.Restore) {
			r.Status.Revision, r.Status.Volumes = &revision, []v1alpha1.VolumeRestore{{Namespace: "shop", Claim: "other"}}
		}, "Restoring: from point 20260302-020000-bbbbbbbb", true},
		{"is done", func(r *v1alpha1.Restore) { r.Status.CompletedAt = &metav1.Time{Time: now} }, "Undecided: ", false},
		{"fills this volume alone", func(r *v1alpha1.Restore) {
			r.Spec.Volumes = []v1alpha1.VolumeRequest{{Claim: "shop/old", As: "shop/data"}}
		}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, pointOf("20260302-020000-bbbbbbbb", older, "data"))
			says, made := s.reconcile(restore(tt.change))
			if !strings.HasPrefix(says, tt.says) || tt.says == "" && says != "" || (made != nil) != tt.made {
				t.Errorf("the claim says %q, want %q; made %v", says, tt.says, made)
			}
		})
	}
}

// TestBypassed: a bound claim whose volume no Restore made is said, never silently empty.
func TestBypassed(t *testing.T) {
	for _, tt := range []struct {
		annotations map[string]string
		says        string
	}{
		{map[string]string{v1alpha1.AnnotationHydrated: "c/m"}, "Populated: "},
		{map[string]string{"pv.kubernetes.io/provisioned-by": localPath}, "Bypassed: rancher's local-path provisioner takes no notice"},
		{map[string]string{"pv.kubernetes.io/provisioned-by": "nfs.example.org"}, "Bypassed: the provisioner nfs.example.org made its volume"},
	} {
		s := newScene(t)
		s.claim.Status.Phase, s.claim.Spec.VolumeName = corev1.ClaimBound, "pv"
		says, made := s.reconcile(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv", Annotations: tt.annotations}})
		if !strings.HasPrefix(says, tt.says) || made != nil {
			t.Errorf("%v: the claim says %q, made %v", tt.annotations, says, made)
		}
		if n := len(s.events.Events); n != 1 {
			t.Errorf("%v: %d events, want one", tt.annotations, n)
		}
	}
}

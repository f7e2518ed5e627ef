package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const (
	vaultName  = "primary"
	policyName = "app"
	// writers is how many requests fill the API server at once.
	writers = 16
)

// fillBoth fills vault and API server at once.
func (b *bench) fillBoth(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.makeVault(ctx) })
	g.Go(func() error { return b.fill(ctx) })
	return g.Wait()
}

// makeVault makes a vault in a directory, with a record of every point.
func (b *bench) makeVault(ctx context.Context) error {
	b.sayf("a vault with %d points", b.policies*b.points)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	s := mem.New()
	vault, err := volume.Create(ctx, s, identity.Recipient())
	if err != nil {
		return err
	}
	err = b.each(ctx, func(ctx context.Context, i int) error {
		for j := range b.points {
			if err := catalog.Put(ctx, vault, b.record(i, j)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "vault")
	if err := writeStore(ctx, s, path); err != nil {
		return err
	}
	b.sayf("the vault is made")
	return b.create(ctx,
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vault-key"},
			StringData: map[string]string{mover.KeyEntry: identity.String()},
		},
		&v1alpha1.Vault{
			ObjectMeta: metav1.ObjectMeta{Name: vaultName},
			Spec: v1alpha1.VaultSpec{
				Filesystem: &v1alpha1.FilesystemLocation{Path: path}, KeySecretRef: v1alpha1.SecretReference{Name: "vault-key"},
			},
		})
}

// writeStore writes the objects of a store as store/fs has them, without its care for each to be durable, which would take most of the
// benchmark's time.
func writeStore(ctx context.Context, s store.Store, dir string) error {
	for info, err := range s.List(ctx, "") {
		if err != nil {
			return err
		}
		data, err := s.Get(ctx, info.Name, 0, -1)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, filepath.FromSlash(info.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// fill makes the policies with all that belongs to them, and what does not.
func (b *bench) fill(ctx context.Context) error {
	b.sayf("%d policies with %d claims and %d points each", b.policies, b.volumes, b.points)
	if err := b.each(ctx, b.fillApplication); err != nil {
		return err
	}
	b.sayf("%d Secrets, Pods and ConfigMaps of others", b.bystanders)
	return b.each(ctx, func(ctx context.Context, i int) error {
		for n := i; n < b.bystanders; n += b.policies {
			meta := metav1.ObjectMeta{Namespace: namespace(i), Name: fmt.Sprintf("other-%d", n)}
			text := strings.Repeat("0123456789abcdef", 256)
			err := b.create(ctx,
				&corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"text": text}},
				&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"text": text}},
				&corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
					Containers:                   []corev1.Container{{Name: "c", Image: "lockstep.test/busybox:1"}},
					AutomountServiceAccountToken: new(false),
				}})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls for every application, several at once, until one fails.
func (b *bench) each(ctx context.Context, do func(ctx context.Context, i int) error) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < b.policies && ctx.Err() == nil; i += writers {
				if err := do(ctx, i); err != nil {
					fail(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// create makes objects, and gives them the status that they come with.
func (b *bench) create(ctx context.Context, objects ...client.Object) error {
	for _, o := range objects {
		withStatus, ok := o.DeepCopyObject().(client.Object)
		if !ok {
			return fmt.Errorf("%T is no object", o)
		}
		if err := b.client.Create(ctx, o); err != nil {
			return fmt.Errorf("making %T %q: %w", o, o.GetName(), err)
		}
		switch o.(type) {
		case *v1alpha1.RestorePoint, *v1alpha1.ProtectionPolicy, *corev1.PersistentVolumeClaim, *corev1.PersistentVolume,
			*sourcev1.GitRepository, *kustomizev1.Kustomization:
			withStatus.SetResourceVersion(o.GetResourceVersion())
			withStatus.SetUID(o.GetUID())
			if err := b.client.Status().Update(ctx, withStatus); err != nil {
				return fmt.Errorf("giving %T %q its status: %w", o, o.GetName(), err)
			}
		}
	}
	return nil
}

func namespace(i int) string { return fmt.Sprintf("app-%04d", i) }

func claim(j int) string { return fmt.Sprintf("data-%d", j) }

func (b *bench) fillApplication(ctx context.Context, i int) error {
	ns := namespace(i)
	objects := append([]client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}}, deployer(i)...)
	objects = append(objects, policy(i))
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	for j := range b.volumes {
		name := fmt.Sprintf("pvc-%s-%d", ns, j)
		objects = append(objects,
			&corev1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: corev1.PersistentVolumeSpec{
					Capacity: size, AccessModes: modes, StorageClassName: "csi",
					ClaimRef: &corev1.ObjectReference{Namespace: ns, Name: claim(j)},
					PersistentVolumeSource: corev1.PersistentVolumeSource{
						CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.lockstep.test", VolumeHandle: name},
					},
				},
				Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
			},
			&corev1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: claim(j), Labels: map[string]string{"app.kubernetes.io/name": "app"}},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: modes, StorageClassName: new("csi"), VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size},
				},
				Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: size, AccessModes: modes},
			})
	}
	for _, o := range objects {
		if _, ok := o.(*corev1.PersistentVolumeClaim); ok {
			deployedBy(i, o)
		}
	}
	for j := range b.points {
		objects = append(objects, b.point(i, j))
	}
	return b.create(ctx, objects...)
}

// policy has a schedule whose next run is hours away.
func policy(i int) *v1alpha1.ProtectionPolicy {
	r := revision(0)
	p := &v1alpha1.ProtectionPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace(i), Name: policyName, Annotations: map[string]string{
			v1alpha1.AnnotationRepository: r.Repository, v1alpha1.AnnotationPath: r.Path,
			v1alpha1.AnnotationRevision: r.Ref + "@sha1:" + r.Commit, v1alpha1.AnnotationTree: r.Tree,
		}},
		Spec: v1alpha1.ProtectionPolicySpec{
			Vaults: []string{vaultName}, Schedule: fmt.Sprintf("30 %d * * *", time.Now().UTC().Add(12*time.Hour).Hour()),
			Objectives: &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: 36 * time.Hour}},
			Retention:  &v1alpha1.Retention{Last: 10, Daily: 7, Weekly: 4},
		},
	}
	deployedBy(i, p)
	if byFlux(i) {
		p.Spec.OnDeploy = v1alpha1.OnDeployBoth
		p.Status.LastDeploy = &v1alpha1.Deploy{Revision: fluxRevision(0)}
	}
	return p
}

func revision(j int) v1alpha1.Revision {
	return v1alpha1.Revision{
		Repository: "https://git.lockstep.test/acme/fleet", Ref: "main", Path: "apps/app",
		Commit: fmt.Sprintf("%040x", j+1), Tree: fmt.Sprintf("%040x", j+1001),
	}
}

// taken is when the jth point was: one every hour, the last one an hour ago.
func (b *bench) taken(j int) time.Time {
	return b.started.Add(-time.Duration(b.points-j) * time.Hour).UTC().Truncate(time.Second)
}

func (b *bench) id(i, j int) string { return point.NewID(b.taken(j), fmt.Sprintf("%08x", i)) }

func (b *bench) point(i, j int) *v1alpha1.RestorePoint {
	at := metav1.NewTime(b.taken(j))
	p := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace(i), Name: policyName + "-" + at.Format("20060102-150405"),
			Labels: map[string]string{v1alpha1.LabelPolicy: policyName, v1alpha1.LabelManagedBy: "lockstep"},
		},
		Spec: v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: policyName}, Trigger: v1alpha1.TriggerSchedule},
		Status: v1alpha1.RestorePointStatus{
			ObservedGeneration: 1, ID: b.id(i, j), Revision: new(revision(j)), StartedAt: &at, Taken: &at, CompletedAt: &at,
			Conditions: []metav1.Condition{{
				Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded, ObservedGeneration: 1, LastTransitionTime: at,
				Message: "every volume is durable and verified in vault \"primary\"",
			}},
			Residual: &v1alpha1.ResidualSummary{Secrets: 3},
			Copies:   []v1alpha1.PointCopy{{Vault: vaultName, State: v1alpha1.CopyVerified, VerifiedAt: &at}},
		},
	}
	for _, v := range b.record(i, j).Volumes {
		p.Status.Volumes = append(p.Status.Volumes, v1alpha1.VolumeCapture{
			Claim: v.Claim, UID: "00000000-0000-0000-0000-000000000000", State: v1alpha1.VolumeSaved, Capacity: resource.NewQuantity(v.Capacity, resource.BinarySI),
			StorageClass: "csi", Taken: &at, Snapshot: v.Snapshot, Bytes: v.Bytes, Stored: v.Bytes / 100, Files: v.Files, Attempts: 1,
			ContentRoot: v.ContentRoot, MetaRoot: v.MetaRoot,
		})
	}
	return p
}

func (b *bench) record(i, j int) point.Record {
	at := b.taken(j)
	r := point.Record{
		Version: point.Version, ID: b.id(i, j), Application: namespace(i) + "/" + policyName, Revision: revision(j),
		Trigger: v1alpha1.TriggerSchedule, Taken: at, Completed: at, Volumes: []point.Volume{},
	}
	for k := range b.volumes {
		r.Volumes = append(r.Volumes, point.Volume{
			Namespace: namespace(i), Claim: claim(k), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}, Capacity: 10 << 30, Taken: at,
			Snapshot: fmt.Sprintf("%032x", i*1000+j*10+k), Bytes: 4 << 30, Files: 12_345,
			ContentRoot: fmt.Sprintf("%064x", i), MetaRoot: fmt.Sprintf("%064x", j),
		})
	}
	return r
}

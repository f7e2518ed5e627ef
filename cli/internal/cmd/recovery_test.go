// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// disaster is what is left after one: a vault with a point of v1.0.0, its key, and the Git repository.
type disaster struct {
	vault, key, repository string
	record                 point.Record
}

// flags name the vault.
func (d *disaster) flags(args ...string) []string {
	return append(args, "--vault", d.vault, "--key-file", d.key)
}

func newDisaster(t *testing.T) *disaster {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	d := &disaster{vault: "file://" + filepath.Join(dir, "vault"), key: filepath.Join(dir, "key"), repository: newRepository(t)}

	r, err := git.Open(d.repository, git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rev, err := r.Resolve(ctx, git.Ref{Tag: "v1.0.0"}, "deploy")
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	key, err := vault.CreateKey(d.key)
	if err != nil {
		t.Fatal(err)
	}
	place, err := vault.NewPlace(ctx, d.vault)
	if err != nil {
		t.Fatal(err)
	}
	v, err := place.Create(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	taken := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d.record = point.Record{
		Version: point.Version, ID: "20260102-030405-aaaaaaaa", Application: "shop/shop", Revision: rev,
		Trigger: v1alpha1.TriggerManual, Taken: taken, Completed: taken.Add(time.Minute),
		Volumes: []point.Volume{{
			Namespace: "shop", Claim: "data", Capacity: 1 << 30, Taken: taken, Snapshot: strings.Repeat("5f3c", 8), Bytes: 3 << 20, Files: 7,
			ContentRoot: "c", MetaRoot: "m",
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
		}},
	}
	if err := catalog.Put(ctx, v, d.record); err != nil {
		t.Fatal(err)
	}
	return d
}

// newRepository makes a repository whose tag v1.0.0 deploys a policy, a claim and a setting, and whose tag v2.0.0 has
// another setting.
func newRepository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, "deploy", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("kustomization.yaml", "namespace: shop\nresources: [all.yaml, settings.yaml]\n")
	write("all.yaml", `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: shop}
spec: {vaults: [primary]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
`)
	write("settings.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {release: one}\n")
	run("init", "-q", "-b", "main")
	run("add", ".")
	run("commit", "-q", "-m", "one")
	run("tag", "v1.0.0")
	write("settings.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {release: two}\n"+
		"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: burn, annotations: {argocd.argoproj.io/hook: PostDelete}}\n")
	run("commit", "-q", "-a", "-m", "two")
	run("tag", "v2.0.0")
	return dir
}

func TestPointsNeedNoCluster(t *testing.T) {
	d := newDisaster(t)
	c := &testCluster{kubeconfig: "/does/not/exist"}
	c.run(t, d.flags("points")...).want(t, fault.Done, "20260102-030405-aaaaaaaa", "shop/shop", "v1.0.0", "3.0 MiB")
	c.run(t, d.flags("points", "--application", "other/other", "-o", "json")...).want(t, fault.Done, "[]")
	c.run(t, d.flags("points", "--repo", d.record.Revision.Repository, "--path", "/deploy", "--commit", d.record.Revision.Commit[:8], "-o", "yaml")...).
		want(t, fault.Done, "id: 20260102-030405-aaaaaaaa")
	c.run(t, d.flags("describe", "20260102")...).want(t, fault.Done, d.record.Revision.Commit, "shop/data", "lockstep restore --point 20260102-030405-aaaaaaaa")
	c.run(t, d.flags("describe", "2025")...).want(t, fault.Absent, "2025")
}

func TestDryRunWithoutAClusterSaysSo(t *testing.T) {
	d := newDisaster(t)
	c := &testCluster{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	const gone = `{"apiVersion": "v1", "kind": "Config", "current-context": "gone",
		"contexts": [{"name": "gone", "context": {"cluster": "gone"}}], "clusters": [{"name": "gone", "cluster": {"server": "http://127.0.0.1:1"}}]}`
	if err := os.WriteFile(c.kubeconfig, []byte(gone), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, d.flags("restore", "--dry-run", "--tag", "v1.0.0")...).want(t, fault.Done, "the cluster does not answer", "shop/data", "Exact")
	c.run(t, "restore", "--dry-run", "--tag", "v1.0.0", "--repo", d.repository).want(t, fault.Unknown, "the cluster does not answer")
}

func TestDryRunPrintsThePlanAndChangesNothing(t *testing.T) {
	c := startCluster(t, true)
	d := newDisaster(t)
	c.addDefaultClass(t)
	dryRun := func(args ...string) outcome {
		return c.run(t, d.flags(append([]string{"restore", "--dry-run", "--repo", d.repository, "--path", "deploy"}, args...)...)...)
	}

	dryRun("--tag", "v1.0.0").want(t, fault.Done, "Restore shop/shop to commit", "because", "Exact", "shop/data", "ConfigMap shop/settings")
	dryRun("--point", "20260102").want(t, fault.Done, "Named")
	dryRun("--before", "2026-01-03T00:00:00Z").want(t, fault.Done, "Before")
	var plan struct{ Point struct{ ID string } }
	o := dryRun("--tag", "v1.0.0", "-o", "json")
	if err := json.Unmarshal([]byte(o.out), &plan); err != nil || plan.Point.ID != d.record.ID {
		t.Errorf("the plan as JSON: %v, %+v\n%s", err, plan, o.out)
	}
	dryRun("--tag", "v2.0.0").want(t, fault.Absent, d.record.ID)
	dryRun("--tag", "v3.0.0").want(t, fault.Absent, "v3.0.0")
	dryRun("--before", "2026-01-01T00:00:00Z").want(t, fault.Absent)
	dryRun("--tag", "v1.0.0", "--application", "other/other").want(t, fault.Absent)
	// Repository and path are those of the points.
	c.run(t, d.flags("restore", "--dry-run", "--tag", "v1.0.0")...).want(t, fault.Done, "Exact")

	if n := c.restores(t); n != 0 {
		t.Errorf("a dry run made %d restores", n)
	}

	// A bound claim is never written to.
	c.namespace(t, "shop")
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: "pv",
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	c.create(t, claim)
	claim.Status.Phase = corev1.ClaimBound
	c.setStatus(t, claim)
	dryRun("--tag", "v1.0.0").want(t, fault.Refused, "REFUSED", "shop/data")
}

func (c *testCluster) addDefaultClass(t *testing.T) {
	t.Helper()
	c.create(t, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "standard", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: "csi.example.com",
	})
}

func TestApplyDeploysACommitAndNotesIt(t *testing.T) {
	c := startCluster(t, true)
	repository := newRepository(t)
	c.create(t, s3Vault("primary"))
	ctx := context.Background()
	c.standIn(t, func(ctx context.Context) error { // plays the policy's controller and the storage
		var p v1alpha1.ProtectionPolicy
		if err := c.Get(ctx, types.NamespacedName{Namespace: "shop", Name: "shop"}, &p); err != nil {
			return err
		}
		if p.Status.ObservedGeneration == p.Generation {
			return nil
		}
		p.Status.ObservedGeneration, p.Status.Conditions = p.Generation, isReady(v1alpha1.ReasonProtecting)
		return c.Status().Update(ctx, &p)
	})
	c.standIn(t, func(ctx context.Context) error {
		var claim corev1.PersistentVolumeClaim
		if err := c.Get(ctx, types.NamespacedName{Namespace: "shop", Name: "data"}, &claim); err != nil || claim.Status.Phase == corev1.ClaimBound {
			return err
		}
		claim.Status.Phase = corev1.ClaimBound
		return c.Status().Update(ctx, &claim)
	})

	apply := func(args ...string) outcome {
		return c.run(t, append([]string{"apply", "--repo", repository, "--path", "deploy"}, args...)...)
	}
	apply("--tag", "v1.0.0").want(t, fault.Done, "ConfigMap shop/settings", "created", "application shop/shop runs commit", "(v1.0.0)")
	var settings corev1.ConfigMap
	if err := c.Get(ctx, types.NamespacedName{Namespace: "shop", Name: "settings"}, &settings); err != nil {
		t.Fatal(err)
	}
	if settings.Data["release"] != "one" || settings.Labels[v1alpha1.LabelApplicationName] != "shop" {
		t.Errorf("the applied object: %v, %v", settings.Data, settings.Labels)
	}
	first := c.noted(t)
	apply("--branch", "main", "-o", "json").want(t, fault.Done, `"application": "shop/shop"`, `"configured"`, "ConfigMap shop/burn is left out: a hook for PostDelete")
	if err := c.Get(ctx, types.NamespacedName{Namespace: "shop", Name: "burn"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("a hook of another time: %v", err)
	}
	if second := c.noted(t); second == first || second == "" {
		t.Errorf("the revision noted is %q, before it was %q", second, first)
	}
	apply("--tag", "v9").want(t, fault.Absent, "v9")
	apply("--tag", "v1.0.0", "--application", "shop").want(t, fault.Usage, "is not <namespace>/<policy>")
}

// noted is the running revision that the policy says.
func (c *testCluster) noted(t *testing.T) string {
	t.Helper()
	var p v1alpha1.ProtectionPolicy
	if err := c.Get(context.Background(), types.NamespacedName{Namespace: "shop", Name: "shop"}, &p); err != nil {
		t.Fatal(err)
	}
	return p.Annotations[v1alpha1.AnnotationRevision]
}

func TestSeveralApplicationsAreRestoredInOrder(t *testing.T) {
	c := startCluster(t, true)
	c.addDefaultClass(t)
	d := newDisaster(t)
	for i, name := range []string{"shop/cache", "shop/db"} {
		d.record.Application = name
		d.savePoint(t, "2026010"+string(rune('5'+i))+"-030405-cccccccc", d.record.Taken.Add(time.Hour))
	}
	c.standIn(t, func(ctx context.Context) error { // plays the restore controller
		var list v1alpha1.RestoreList
		if err := c.List(ctx, &list); err != nil {
			return err
		}
		done := map[string]bool{}
		for _, r := range list.Items {
			done[r.Name] = r.Status.CompletedAt != nil
		}
		for i := range list.Items {
			r := &list.Items[i]
			if len(r.Spec.DependsOn) > 0 && !done[r.Spec.DependsOn[0].Name] {
				continue
			}
			if err := c.finishRestore(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
	v, err := vault.Spec(d.vault)
	if err != nil {
		t.Fatal(err)
	}
	v.KeySecretRef.Name = "primary-key"
	c.create(t, &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "primary"}, Spec: v})
	c.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "primary-key"},
		Data: map[string][]byte{mover.KeyEntry: readFile(t, d.key)}})
	restore := func(args ...string) outcome {
		return c.run(t, append([]string{"restore", "--tag", "v1.0.0", "--vault", "primary"}, args...)...)
	}
	url := []string{"--repo", "https://git.example.com/shop.git"}

	c.run(t, "restore", "--tag", "v1.0.0", "--dry-run", "--vault", "primary", "--repo", d.repository, "--application", "shop/db", "--application", "shop/cache").
		want(t, fault.Done, "1. shop/db, at once", "2. shop/cache, when the one before is back", "Restore shop/cache to commit")
	if n := c.restores(t); n != 0 {
		t.Fatalf("a dry run made %d restores", n)
	}
	restore(append(url, "--application", "shop/db", "--application", "shop/cache")...).want(t, fault.Done,
		"shop/db (restore/restore-shop-db-", "shop/cache (restore/restore-shop-cache-", "RTO 31 s")
	var list v1alpha1.RestoreList
	if err := c.List(context.Background(), &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Items {
		first := strings.HasPrefix(r.Name, "restore-shop-db-")
		if first != (len(r.Spec.DependsOn) == 0) || r.Spec.Source.Path != "deploy" {
			t.Errorf("%s depends on %v, path %q", r.Name, r.Spec.DependsOn, r.Spec.Source.Path)
		}
		if !first && !strings.HasPrefix(r.Spec.DependsOn[0].Name, "restore-shop-db-") {
			t.Errorf("%s depends on %v", r.Name, r.Spec.DependsOn)
		}
	}
	restore(append(url, "--all", "-o", "json")...).want(t, fault.Done, `"application": "shop/shop"`, `"rtoSeconds": 31`)
	if n := c.restores(t); n != 5 {
		t.Errorf("%d restores, want 2 and 3", n)
	}
	restore(append(url, "--application", "shop/db", "--application", "shop/none")...).want(t, fault.Absent, `no point of application "shop/none"`)
	restore(append(url, "--application", "shop/db", "--application", "shop/db")...).want(t, fault.Usage, "is named twice")
	// What the first ends with is the answer, and nobody waits for those behind it.
	c.run(t, append(append([]string{"restore", "--tag", "absent", "--vault", "primary"}, url...), "--application", "shop/db", "--application", "shop/cache")...).
		want(t, fault.Absent, "PointNotFound")
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRestoreOnABareClusterInstallsFirst(t *testing.T) {
	c := startCluster(t, false)
	d := newDisaster(t)
	restore := func(args ...string) outcome {
		return c.run(t, d.flags(append([]string{"restore", "--tag", "v1.0.0", "--repo", "https://git.example.com/shop.git"}, args...)...)...)
	}
	c.addDefaultClass(t)
	c.run(t, d.flags("restore", "--dry-run", "--tag", "v1.0.0")...).want(t, fault.Done, "Exact", "ProtectionPolicy.lockstep.dev shop/shop")
	restore().want(t, fault.Usage, "no image for the controller")
	if ok, err := installed(context.Background(), c, time.Now()); ok || err != nil {
		t.Fatalf("a refused restore installed something: %v, %v", ok, err)
	}

	c.standIn(t, func(ctx context.Context) error { // plays the kubelet
		var list appsv1.DeploymentList
		if err := c.List(ctx, &list, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
			return err
		}
		for i := range list.Items {
			s := &list.Items[i].Status
			if s.AvailableReplicas > 0 {
				continue
			}
			s.ObservedGeneration, s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas = list.Items[i].Generation, 1, 1, 1, 1
			s.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue}}
			if err := c.Status().Update(ctx, &list.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	c.standIn(t, func(ctx context.Context) error { // plays the restore controller
		var list v1alpha1.RestoreList
		if err := c.List(ctx, &list); meta.IsNoMatchError(err) {
			return nil // not installed yet
		} else if err != nil {
			return err
		}
		for i := range list.Items {
			if err := c.finishRestore(ctx, &list.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	restore("--image", "lockstep:test", "--name", "first").want(t, fault.Done,
		"installing Lockstep into the cluster", "made Secret lockstep-system/vault-primary-key", "made Vault primary", "RTO 31 s")

	var key corev1.Secret
	if err := c.Get(context.Background(), types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: "vault-primary-key"}, &key); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(d.key)
	if err != nil || string(key.Data[mover.KeyEntry]) != string(want) {
		t.Errorf("the key in the cluster is not the key of the file: %v", err)
	}
	// What is there is used, not made again.
	second := restore("--name", "second")
	second.want(t, fault.Done)
	if containsAny(second.err, "installing", "made Vault") {
		t.Errorf("a second restore set up again:\n%s", second.err)
	}
	other := newDisaster(t)
	c.run(t, other.flags("install", "--image", "lockstep:test")...).want(t, fault.Refused, `the cluster has a Vault "primary" at another place`)
}

func containsAny(s string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(s, text) })
}

// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/doctor"
	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// savePoint puts a point with a small volume that can be read into the vault.
func (d *disaster) savePoint(t *testing.T, id string, taken time.Time) {
	t.Helper()
	ctx := context.Background()
	opened, err := (&vault.Flags{Vault: d.vault, KeyFile: d.key}).OpenURL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	saved, err := opened.Save(ctx, dir, volume.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := d.record
	r.ID, r.Taken, r.Completed = id, taken, taken.Add(time.Minute)
	r.Volumes = slices.Clone(r.Volumes)
	r.Volumes[0].Snapshot, r.Volumes[0].ContentRoot, r.Volumes[0].MetaRoot = saved.ID, saved.Roots.Content.String(), saved.Roots.Meta.String()
	r.Volumes[0].Bytes, r.Volumes[0].Files, r.Volumes[0].Taken = 4, 1, taken
	if err := catalog.Put(ctx, opened.Vault, r); err != nil {
		t.Fatal(err)
	}
}

// withoutCluster runs a command that must not need one.
func withoutCluster(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, errOut strings.Builder
	p := &Program{Name: "lockstep", Out: &out, Err: &errOut, Now: time.Now, Getenv: func(string) string { return "" }}
	code := p.Run(t.Context(), args)
	return outcome{code, out.String(), errOut.String()}
}

func TestDoctorOfAVaultAlone(t *testing.T) {
	d := newDisaster(t)
	examine := func(args ...string) outcome {
		return withoutCluster(t, d.flags(append([]string{"doctor"}, args...)...)...)
	}

	examine().want(t, fault.Failed, "one single key opens this vault", "ERROR    Every application has a point that can be restored",
		"point 20260102-030405-aaaaaaaa of shop/shop", "volume shop/data: ", "snapshot not found", "> lockstep volume verify")

	d.savePoint(t, "20260103-030405-bbbbbbbb", d.record.Taken.Add(24*time.Hour))
	examine("-v").want(t, fault.Done, "opens with the key", "only you can know", "point 20260103-030405-bbbbbbbb", "1 volume and the rest of it can be read; Git was not asked")
	other := newRepository(t)
	examine("-v", "--repo", other).want(t, fault.Done, "Git was not asked") // another repository
	examine("-v", "--repo", d.repository).want(t, fault.Done, "and Git has its commit")

	stranger := newDisaster(t)
	withoutCluster(t, "doctor", "--vault", d.vault, "--key-file", stranger.key).want(t, fault.Failed, "the key does not open this vault")
	withoutCluster(t, "doctor", "--vault", "file:///nowhere/at/all", "--key-file", d.key).want(t, fault.Unknown, "something could not be asked")
	withoutCluster(t, "doctor", "--vault", d.vault).want(t, fault.Usage, "no key file")
	withoutCluster(t, "doctor", "--vault", "primary", "--key-file", d.key).want(t, fault.Usage, "is not a URL")
	var report doctor.Report
	if err := json.Unmarshal([]byte(examine("-o", "json").out), &report); err != nil || report.Result != doctor.Warning || len(report.Answers) != 3 {
		t.Errorf("the document: %+v, %v", report, err)
	}
}

// hospital is a cluster whose checks are asked one by one.
type hospital struct {
	*testCluster
	t     *testing.T
	image string
	now   func() time.Time
}

// examine asks one check, which must come to the result and tell the texts.
func (h *hospital) examine(id string, want doctor.Result, texts ...string) {
	h.t.Helper()
	checks := doctor.Checks()
	i := slices.IndexFunc(checks, func(c doctor.Check) bool { return c.ID == id })
	s := &doctor.Subject{Cluster: h.Cluster, Image: h.image, Now: h.now}
	a := doctor.Examine(context.Background(), s, checks[i:i+1], time.Minute).Answers[0]
	var told strings.Builder
	for _, f := range a.Findings {
		told.WriteString(string(f.Result) + ": " + f.Seen + " > " + f.Fix + "\n")
	}
	if a.Result != want {
		h.t.Errorf("%s: %s, want %s\n%s", id, a.Result, want, told.String())
	}
	for _, text := range texts {
		if !strings.Contains(told.String(), text) {
			h.t.Errorf("%s: %q is missing in\n%s", id, text, told.String())
		}
	}
}

func (h *hospital) update(o client.Object) {
	h.t.Helper()
	if err := h.Update(context.Background(), o); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hospital) remove(o client.Object) {
	h.t.Helper()
	if err := h.Delete(context.Background(), o); err != nil {
		h.t.Fatal(err)
	}
}

// define teaches the cluster kinds, without any schema.
func (h *hospital) define(group, version string, namespaced bool, kinds ...string) {
	h.t.Helper()
	scope := "Cluster"
	if namespaced {
		scope = "Namespaced"
	}
	for _, kind := range kinds {
		plural := strings.ToLower(kind) + "s"
		if strings.HasSuffix(kind, "y") {
			plural = strings.ToLower(strings.TrimSuffix(kind, "y")) + "ies"
		} else if strings.HasSuffix(kind, "s") {
			plural = strings.ToLower(kind) + "es"
		}
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + "." + group, "annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, a test"}},
			"spec": map[string]any{
				"group": group, "scope": scope, "names": map[string]any{"kind": kind, "plural": plural},
				"versions": []any{map[string]any{
					"name": version, "served": true, "storage": true,
					"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
				}},
			},
		}}
		h.create(h.t, u)
		h.served(u)
	}
}

// served waits until the API server answers for a kind.
func (h *hospital) served(definition *unstructured.Unstructured) {
	h.t.Helper()
	for range 200 {
		if err := h.Get(context.Background(), client.ObjectKeyFromObject(definition), definition); err != nil {
			h.t.Fatal(err)
		}
		conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
		for _, c := range conditions {
			if m, _ := c.(map[string]any); m["type"] == "Established" && m["status"] == "True" {
				return
			}
		}
		time.Sleep(25 * time.Millisecond)
	}
	h.t.Fatalf("%s is not served", definition.GetName())
}

func thing(apiVersion, kind, namespace, name string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "spec": spec}}
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func TestDoctorOfACluster(t *testing.T) {
	h := &hospital{testCluster: startCluster(t, true), t: t, now: time.Now}
	h.run(t, "doctor").want(t, fault.Failed, "there is no ProtectionPolicy", "there is no Vault", "no controller", "errors, ")
	for _, part := range []struct {
		name string
		run  func(*testing.T, *hospital)
	}{
		{"Cluster", testDoctorCluster},
		{"Lockstep", testDoctorLockstep},
		{"Vaults", testDoctorVaults},
		{"Protection", testDoctorProtection},
		{"Storage", testDoctorStorage},
		{"Access", testDoctorAccess},
		{"GitOps", testDoctorGitOps},
		{"Leftovers", testDoctorLeftovers},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, &hospital{h.testCluster, t, "", time.Now}) })
	}
}

func testDoctorCluster(_ *testing.T, h *hospital) {
	h.examine("api-server", doctor.OK, "Kubernetes v1.")
	h.examine("clock", doctor.OK)
	h.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
	h.examine("clock", doctor.Warning, "differ by", "NTP")
}

func testDoctorLockstep(t *testing.T, h *hospital) {
	ctx := context.Background()
	h.examine("kinds", doctor.OK, "4 kinds")
	definitions, err := manifests.Definitions()
	if err != nil {
		t.Fatal(err)
	}
	changed := definitions[0].DeepCopy()
	if err := h.Get(ctx, client.ObjectKeyFromObject(changed), changed); err != nil {
		t.Fatal(err)
	}
	good := changed.DeepCopy()
	versions, _, _ := unstructured.NestedSlice(changed.Object, "spec", "versions")
	_ = unstructured.SetNestedField(versions[0].(map[string]any), "an older text", "schema", "openAPIV3Schema", "description")
	_ = unstructured.SetNestedSlice(changed.Object, versions, "spec", "versions")
	h.update(changed)
	h.examine("kinds", doctor.Warning, changed.GetName()+" has another schema")
	good.SetResourceVersion(changed.GetResourceVersion())
	h.update(good)

	h.examine("controller", doctor.Error, "no controller")
	labels := map[string]string{"app.kubernetes.io/name": "lockstep", "app.kubernetes.io/component": "controller"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "lockstep-controller", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "manager", Image: "lockstep:1"}}},
			},
		},
	}
	h.create(t, d)
	h.examine("controller", doctor.Error, "has no available pod", "no controller has renewed its lease")
	d.Status.Replicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas = 1, 1, 1
	h.setStatus(t, d)
	h.create(t, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "lockstep"},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}},
	})
	h.examine("controller", doctor.OK, "is not known")
	h.image = "lockstep:2"
	h.examine("controller", doctor.Warning, "image is lockstep:1, that of this program lockstep:2")
	h.image = "lockstep:1"
	h.examine("controller", doctor.OK)

	h.examine("pod-security", doctor.Warning, "says no Pod Security level")
	var ns corev1.Namespace
	for level, want := range map[string]doctor.Result{"restricted": doctor.Error, "baseline": doctor.OK, "privileged": doctor.OK} {
		if err := h.Get(ctx, client.ObjectKey{Name: v1alpha1.SystemNamespace}, &ns); err != nil {
			t.Fatal(err)
		}
		ns.Labels["pod-security.kubernetes.io/enforce"] = level
		h.update(&ns)
		h.examine("pod-security", want, level)
	}
	h.examine("movers", doctor.Warning, "no mover has run")
}

func testDoctorVaults(t *testing.T, h *hospital) {
	ctx := context.Background()
	d := newDisaster(t)
	v := &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Name: "primary"},
		Spec: v1alpha1.VaultSpec{
			Filesystem:   &v1alpha1.FilesystemLocation{Path: strings.TrimPrefix(d.vault, "file://")},
			KeySecretRef: v1alpha1.SecretReference{Name: "primary-key"},
		},
	}
	h.create(t, v)
	h.examine("vaults", doctor.Unknown, "has not looked at it")
	v.Status.Conditions = hasStalled(v1alpha1.ReasonWrongKey, "the key does not open this vault")
	h.setStatus(t, v)
	h.examine("vaults", doctor.Error, "WrongKey")
	v.Status.Conditions = isReady(v1alpha1.ReasonOpened)
	h.setStatus(t, v)
	h.examine("vaults", doctor.OK, "vault primary is open")

	h.examine("vault-keys", doctor.Error, `Secret "primary-key" is not in namespace lockstep-system`)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "primary-key"},
		StringData: map[string]string{mover.KeyEntry: "AGE-SECRET-KEY-hunter2"},
	}
	h.create(t, secret)
	h.examine("vault-keys", doctor.Error, "holds no key")
	key, err := os.ReadFile(d.key)
	if err != nil {
		t.Fatal(err)
	}
	secret.Data = map[string][]byte{mover.KeyEntry: key}
	h.update(secret)
	h.examine("vault-keys", doctor.OK, "only you can know")
	if shown := h.run(t, "doctor", "-v", "-o", "json"); strings.Contains(shown.out+shown.err, strings.TrimSpace(string(key))[len(key)-30:]) {
		t.Error("the key is shown")
	}
	h.examine("vault-from-here", doctor.OK, "opens from here, too")
	h.examine("vault-locks", doctor.OK, "no vault has spec.immutability")
	gone := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, Spec: v1alpha1.VaultSpec{
		S3:           &v1alpha1.S3Location{Bucket: "acme-dr", Endpoint: "http://127.0.0.1:1"},
		KeySecretRef: v1alpha1.SecretReference{Name: "primary-key"},
		Immutability: &v1alpha1.Immutability{Mode: v1alpha1.LockCompliance, Retention: metav1.Duration{Duration: 720 * time.Hour}},
	}}
	h.create(t, gone)
	h.examine("vault-locks", doctor.Unknown, "vault gone: whether its store locks is not known")
	if told := h.run(t, "describe", "vault/gone"); !strings.Contains(told.out, "each point for 30 d 0 h, mode Compliance") || !strings.Contains(told.out, "lock=compliance:720h0m0s") {
		t.Errorf("the lock is not told of: %s", told.out)
	}
	h.remove(gone)

	p := policy("default", "shop")
	h.create(t, p)
	h.examine("points", doctor.Warning, "policy default/shop: vault primary holds no point of it")
	h.remove(p)
	h.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	h.create(t, policy("shop", "shop"))
	h.examine("points", doctor.Error, "volume shop/data", "snapshot not found")
	d.savePoint(t, "20260103-030405-bbbbbbbb", d.record.Taken.Add(24*time.Hour))
	h.examine("points", doctor.OK, "1 volume and the rest of it can be read")

	if err := h.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
		t.Fatal(err)
	}
	v.Spec.Filesystem.Path = "/nowhere/at/all"
	h.update(v)
	h.examine("vault-from-here", doctor.Warning, "is a directory in the controller's pod")
	h.examine("points", doctor.Unknown, "does not open from here")
}

func testDoctorProtection(t *testing.T, h *hospital) {
	ctx := context.Background()
	var p v1alpha1.ProtectionPolicy
	if err := h.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "shop"}, &p); err != nil {
		t.Fatal(err)
	}
	h.examine("policies", doctor.Error, "policy shop/shop does not protect")
	p.Status.Conditions = isReady(v1alpha1.ReasonProtecting)
	h.setStatus(t, &p)
	h.examine("policies", doctor.Warning, "nothing says which commit is running")
	p.Annotations = map[string]string{v1alpha1.AnnotationRevision: "sha1:" + commit}
	p.Spec.Objectives = &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: time.Hour}}
	h.update(&p)
	h.examine("policies", doctor.Warning, "has no point yet")
	p.Status.LastPoint = &v1alpha1.PointReference{Name: "shop-1", Taken: metav1.NewTime(time.Now().Add(-3 * time.Hour))}
	h.setStatus(t, &p)
	h.examine("policies", doctor.Error, "breaks its RPO of 1 h 00 min: the last good point is 3 h 00 min old")
	p.Status.LastPoint.Taken = metav1.Now()
	h.setStatus(t, &p)
	h.examine("policies", doctor.OK)
	p.Spec.Suspend = true
	h.update(&p)
	h.examine("policies", doctor.Warning, "is suspended")

	h.examine("unprotected", doctor.OK, "0 claims are protected")
	class := "fast"
	claim := func(namespace, name string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		}
	}
	h.create(t, claim("shop", "data"))
	bare := claim("default", "cache")
	h.create(t, bare)
	h.examine("unprotected", doctor.Warning, "namespace default: no policy protects cache", v1alpha1.AnnotationExclude)
	bare.Annotations = map[string]string{v1alpha1.AnnotationExclude: "it is a cache"}
	h.update(bare)
	h.examine("unprotected", doctor.OK, "1 claim is protected, 1 left out")
}

func testDoctorStorage(t *testing.T, h *hospital) {
	h.examine("snapshots", doctor.Error, "does not know the kind VolumeSnapshotClass")
	h.define("snapshot.storage.k8s.io", "v1", false, "VolumeSnapshotClass", "VolumeSnapshotContent")
	h.define("snapshot.storage.k8s.io", "v1", true, "VolumeSnapshot")
	h.examine("snapshots", doctor.Warning, "no snapshot controller is seen here")

	h.examine("storage-classes", doctor.Error, "the cluster has no StorageClass")
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	fast := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "csi.example.com", VolumeBindingMode: &wait}
	h.create(t, fast)
	h.examine("storage-classes", doctor.Error, `no CSI driver "csi.example.com" is installed, used by shop/data`, "no StorageClass is the default")
	h.create(t, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.com"}})
	h.examine("storage-classes", doctor.Error, `no VolumeSnapshotClass for "csi.example.com"`)
	for _, name := range []string{"a", "b"} {
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "driver": "csi.example.com", "deletionPolicy": "Delete",
		}}
		u.SetName(name)
		if name == "b" {
			u.SetAnnotations(map[string]string{"snapshot.storage.kubernetes.io/is-default-class": "true"})
		}
		h.create(t, u)
	}
	fast.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	h.update(fast)
	h.examine("storage-classes", doctor.OK, "class fast: snapshots by class b", "when a pod is placed", "deleting a claim deletes its data")
	h.create(t, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: "rancher.io/local-path"})
	h.examine("storage-classes", doctor.Warning, "ignores dataSourceRef")
	h.remove(fast)
	h.examine("storage-classes", doctor.Error, `there is no StorageClass "fast", which protected claims use: shop/data`)
}

func testDoctorAccess(t *testing.T, h *hospital) {
	h.examine("caller", doctor.OK)
	h.examine("account", doctor.Error, "may not: ", "create jobs.batch", "patch restores.lockstep.dev")
	objects, err := manifests.Objects("lockstep:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range objects {
		if slices.Contains([]string{"ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"}, u.GetKind()) && u.GetName() != "lockstep-restore" {
			h.create(t, u)
		}
	}
	// The API server's own roles exist only once its controllers have made them; cluster-admin does from the start.
	h.examineSoon("account", doctor.Warning, "may save, and not apply whatever")
	h.create(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}})
	h.create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "lockstep-restore"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "all"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: v1alpha1.SystemNamespace, Name: "lockstep-controller"}},
	})
	h.examineSoon("account", doctor.OK, "has all that this version needs")
}

// examineSoon waits for the API server to see its own roles, and examines.
func (h *hospital) examineSoon(id string, want doctor.Result, texts ...string) {
	h.t.Helper()
	checks := doctor.Checks()
	i := slices.IndexFunc(checks, func(c doctor.Check) bool { return c.ID == id })
	for range 100 {
		s := &doctor.Subject{Cluster: h.Cluster, Now: h.now}
		if doctor.Examine(context.Background(), s, checks[i:i+1], time.Minute).Result == want {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.examine(id, want, texts...)
}

func testDoctorGitOps(t *testing.T, h *hospital) {
	h.examine("engines", doctor.OK, "neither Flux nor Argo CD is installed")
	h.define("kustomize.toolkit.fluxcd.io", "v1", true, "Kustomization")
	h.define("argoproj.io", "v1alpha1", true, "Application")
	k := thing("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "default", "shop", map[string]any{"targetNamespace": "shop"})
	h.create(t, k)
	h.create(t, thing("argoproj.io/v1alpha1", "Application", "default", "other", map[string]any{"destination": map[string]any{"namespace": "other"}}))
	h.examine("engines", doctor.OK, "Flux is installed", "Argo CD is installed", "policy shop/shop: its namespace is deployed by Kustomization default/shop >")
	h.examine("held", doctor.OK, "nothing is held")
	_ = unstructured.SetNestedField(k.Object, true, "spec", "suspend")
	h.update(k)
	h.examine("engines", doctor.Warning, "Kustomization default/shop, which deploys policy shop/shop, is suspended")

	k.SetLabels(map[string]string{v1alpha1.LabelRestore: "gone"})
	h.update(k)
	h.examine("held", doctor.Error, "Kustomization default/shop is held or pinned by a Restore that is gone")
	k.SetAnnotations(map[string]string{v1alpha1.AnnotationHeldBy: "lockstep-system/shop-old"})
	h.update(k)
	h.examine("held", doctor.Error, "lockstep restore release shop-old -n lockstep-system")
	r := aRestore("shop-back")
	h.create(t, r)
	k.SetLabels(map[string]string{v1alpha1.LabelRestore: string(r.UID)})
	h.update(k)
	h.examine("held", doctor.OK, "which is under way")
	r.Status.CompletedAt = &metav1.Time{Time: time.Now()}
	r.Status.Volumes = []v1alpha1.VolumeRestore{{Namespace: "shop", Claim: "data", HydratedAt: r.Status.CompletedAt}}
	h.setStatus(t, r)
	h.examine("held", doctor.Warning, "which is done", "lockstep restore release shop-back -n lockstep-system")
	h.examine("movers", doctor.OK, "a mover has filled claim shop/data")
}

func aRestore(name string) *v1alpha1.Restore {
	return &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.RestoreSpec{
			From: v1alpha1.RestoreFrom{Vault: "primary", Tag: "v1"}, Source: v1alpha1.GitSource{URL: "https://git.example.com/x", Path: "."},
		},
	}
}

func testDoctorLeftovers(t *testing.T, h *hospital) {
	h.examine("stalled", doctor.OK)
	r := aRestore("stuck")
	h.create(t, r)
	r.Status.Conditions = hasStalled(v1alpha1.ReasonRefused, "claim shop/data is bound")
	h.setStatus(t, r)
	h.examine("stalled", doctor.Warning, "restore lockstep-system/stuck has stopped: Refused: claim shop/data is bound")
	h.remove(r)
	point := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-1"},
		Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "shop"}},
	}
	h.create(t, point)
	point.Status.Conditions = hasStalled(v1alpha1.ReasonSaveFailed, "a file cannot be read")
	h.setStatus(t, point)
	h.examine("stalled", doctor.Error, "point shop/shop-1 has failed")
	point.Status.Conditions = isReady(v1alpha1.ReasonSucceeded)
	point.Status.Volumes = []v1alpha1.VolumeCapture{{Claim: "data", UID: "u", State: v1alpha1.VolumeSaved}}
	h.setStatus(t, point)
	h.examine("stalled", doctor.OK)
	h.examine("snapshots", doctor.OK, "was saved from snapshots")

	h.examine("orphans", doctor.OK)
	staging := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "ls-1", Labels: map[string]string{v1alpha1.LabelRestore: "gone"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	h.create(t, staging)
	kept := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-1", Labels: map[string]string{v1alpha1.LabelRestore: "gone"}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: "1"},
			},
		},
	}
	h.create(t, kept)
	snapshot := thing("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "shop", "ls-2", nil)
	snapshot.SetLabels(map[string]string{v1alpha1.LabelRestorePoint: string(point.UID)})
	h.create(t, snapshot)
	h.examine("orphans", doctor.Warning, "PersistentVolumeClaim lockstep-system/ls-1 was made for a Restore that is gone", "kubectl -n lockstep-system delete persistentvolumeclaim ls-1")
	h.remove(staging)
	// What was handed over has given its mark of a temporary thing back.
	h.letGo(staging)
	h.examine("orphans", doctor.OK)
	kept.Annotations = map[string]string{v1alpha1.AnnotationReclaimPolicy: "Delete"}
	h.update(kept)
	h.examine("orphans", doctor.Warning, "PersistentVolume pv-1", "kept from being reclaimed")
}

// letGo takes off what protects a claim from its deletion, as the controller that does not run here would.
func (h *hospital) letGo(o client.Object) {
	h.t.Helper()
	if err := h.Get(context.Background(), client.ObjectKeyFromObject(o), o); err != nil {
		return // it is gone already
	}
	o.SetFinalizers(nil)
	h.update(o)
}

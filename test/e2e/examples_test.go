package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
	"github.com/lockstep-dr/lockstep/test/standin"
)

// example is a directory of examples that is a whole repository, published on the lab's Git server.
type example struct {
	t    *testing.T
	dir  string
	repo *shop.Repository
}

// edits are what whoever copies an example changes, by file: pairs of what is written there and what is to be.
type edits map[string][]string

// TestExamples deploys the repositories of examples as their pages say, saves what runs, and has `lockstep check` say what is protected and
// could be restored, with the cluster and the vault. What is changed in the files is what names somebody's own: the address of the
// repository, the vaults, the storage driver, and the images, as the clusters reach no registry.
func TestExamples(t *testing.T) {
	watchOver(t)
	ctx, prod := t.Context(), shared.prod
	offsite := ownVault{key: filepath.Join(t.TempDir(), "key")}
	var err error
	offsite.url, err = shared.lab.Bucket(ctx, fmt.Sprintf("offsite-%d", time.Now().UnixNano()), "vault")
	must(t, err)
	lockstep(ctx, t, nil, "vault", "init", offsite.url, "--key-file", offsite.key)
	lockstep(ctx, t, prod, "install", "--image", shared.lab.Image(), "--vault", offsite.url, "--key-file", offsite.key, "--vault-name", "offsite")
	definitions := t.TempDir()
	must(t, standin.WriteDefinitions(ctx, definitions))
	kubectl(ctx, t, prod, "apply", "--server-side", "-f", definitions)
	kubectl(ctx, t, prod, "wait", "--for=condition=Established", "--timeout=60s", "-f", definitions)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		kubectl(ctx, t, prod, "delete", "--ignore-not-found", "-f", definitions)
		kubectl(ctx, t, prod, "delete", "--ignore-not-found", "vault/offsite", "storageclass/data")
		kubectl(ctx, t, prod, "label", "vault/primary", "kustomize.toolkit.fluxcd.io/name-", "kustomize.toolkit.fluxcd.io/namespace-")
		kubectl(ctx, t, prod, "annotate", "vault/primary", "argocd.argoproj.io/tracking-id-")
		kubectl(ctx, t, prod, "delete", "--ignore-not-found", "-n", v1alpha1.SystemNamespace, "secret/vault-offsite-key", "secret/vault-offsite-credentials")
	})
	t.Run("flux-monorepo", fluxExample)
	t.Run("helm", helmExample)
	t.Run("argocd-app-of-apps", argoExampleRepository)
	t.Run("kustomize", kustomizeExample)
}

// fluxExample: what `flux bootstrap` applies brings all else.
func fluxExample(t *testing.T) {
	ctx, prod := t.Context(), shared.prod
	primary, offsite := vaultOf(ctx, t, "primary"), vaultOf(ctx, t, "offsite")
	cluster, region := primary.Prefix, primary.Region
	primary.Prefix, primary.Region, offsite.Prefix, offsite.Region = "${cluster}", "${region}", "${cluster}", "${offsite_region}"
	e := publishExample(ctx, t, "flux-monorepo", "https://git.example.com/acme/fleet.git", edits{
		"clusters/production/settings.yaml": {
			"cluster: production", "cluster: " + cluster, " region: eu-west-1", " region: " + region, "eu-central-1", region, "ebs.csi.aws.com", "csi.lockstep.test",
		},
		"infrastructure/vaults.yaml": {
			`{bucket: acme-dr, prefix: "${cluster}", region: "${region}"}`, flow(t, primary),
			`{bucket: acme-dr-offsite, prefix: "${cluster}", region: "${offsite_region}"}`, flow(t, offsite),
		},
		"apps/shop/base/database.yaml": {"image: postgres", "image: lockstep.test/postgres"},
		"apps/shop/base/uploads.yaml":  {"image: busybox", "image: lockstep.test/busybox"},
	})
	withSecret(ctx, t, "shop", "database", "password")
	bootstrap(ctx, e)
	comesUp(ctx, t, "shop", "statefulset/database", "deployment/uploads")
	_, err := shop.SQL(ctx, prod, "create table orders as select n from generate_series(1, 1000) n")
	must(t, err)
	_, err = prod.Exec(ctx, "shop", "deployment/uploads", "busybox", "sh", "-c", "echo a picture >/uploads/picture")
	must(t, err)

	// Before there is a point the check says so.
	d := e.check(ctx, "--live", "--vault", "primary")
	if len(pointsOf(ctx, t, "shop")) == 0 { // the schedule may have asked by now
		e.finds(d, "LS402", "ProtectionPolicy shop/shop")
		e.finds(d, "LS404", "ProtectionPolicy shop/shop")
	}
	p := e.backup(ctx, "shop", "shop", "data-database-0", "uploads")
	e.restorable(ctx, p, "(clusters/production)")
}

// helmExample: the policy is in the chart, and selects the claims of the release alone.
func helmExample(t *testing.T) {
	ctx, prod := t.Context(), shared.prod
	e := publishExample(ctx, t, "helm", "https://git.example.com/acme/queue.git", edits{
		"charts/queue/values.yaml": {"image: redis", "image: lockstep.test/redis"},
	})
	bootstrap(ctx, e)
	comesUp(ctx, t, "queue", "statefulset/queue")
	_, err := prod.Exec(ctx, "queue", "queue-0", "redis-cli", "rpush", "jobs", "one", "two")
	must(t, err)
	p := e.backup(ctx, "queue", "queue", "data-queue-0")
	d := e.restorable(ctx, p, "")
	if found := ofNamespace(d, "queue"); len(found) > 0 {
		t.Errorf("found in the cluster: %v", found)
	}

	// What somebody makes by hand is in no commit: only the cluster knows of it.
	must(t, prod.Create(ctx, claimByHand("queue", "forgotten")))
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		claim := &corev1.PersistentVolumeClaim{}
		err := prod.Get(ctx, client.ObjectKey{Namespace: "queue", Name: "forgotten"}, claim)
		return claim.Status.Phase == corev1.ClaimBound, err
	}))
	d = e.check(ctx, "--live")
	e.finds(d, "LS401", "PersistentVolumeClaim queue/forgotten")
	e.finds(d, "LS403", "PersistentVolumeClaim queue/forgotten")
	if d := e.check(ctx); slices.ContainsFunc(d.Findings, func(f coverage.Finding) bool { return f.Object.Name == "forgotten" }) {
		t.Error("the check knows of a claim in the cluster without --live")
	}
}

// argoExampleRepository: one Application is applied by hand, and brings the others.
func argoExampleRepository(t *testing.T) {
	ctx, prod := t.Context(), shared.prod
	e := publishExample(ctx, t, "argocd-app-of-apps", "https://git.example.com/acme/fleet.git", edits{
		"platform/storageclass.yaml": {"ebs.csi.aws.com", "csi.lockstep.test"},
		"platform/vaults.yaml": {
			"{bucket: acme-dr, region: eu-west-1}", flow(t, vaultOf(ctx, t, "primary")), "{bucket: acme-dr-offsite, region: eu-central-1}", flow(t, vaultOf(ctx, t, "offsite")),
		},
		"orders/base/database.yaml": {"image: mariadb", "image: lockstep.test/mariadb"},
	})
	for _, environment := range []string{"orders-production", "orders-staging"} {
		withSecret(ctx, t, environment, "orders", "MARIADB_ROOT_PASSWORD")
	}
	kubectl(ctx, t, prod, "create", "namespace", "argocd")
	kubectl(ctx, t, prod, "apply", "-f", filepath.Join(e.dir, "root.yaml"))
	argo := &standin.Argo{Client: engineClient(t, prod), Namespace: "argocd", Fetch: standin.Git{Dir: t.TempDir()}.Fetch}
	stop := atWork(ctx, t, argo.Step)
	t.Cleanup(func() { e.remove(stop, "argocd", "orders-production", "orders-staging") })
	comesUp(ctx, t, "orders-production", "statefulset/orders")
	_, err := prod.Exec(ctx, "orders-production", "orders-0", mariadb("-e", "create database shop; create table shop.orders (n int); insert into shop.orders values (1)")...)
	must(t, err)
	p := e.backup(ctx, "orders-production", "orders", "data-orders-0", "log-orders-0")
	e.restorable(ctx, p, "Application argocd/orders-production")
}

// kustomizeExample has no engine: a pipeline of GitHub saves and deploys.
func kustomizeExample(t *testing.T) {
	ctx, prod := t.Context(), shared.prod
	e := publishExample(ctx, t, "kustomize", "https://git.example.com/acme/notes.git", edits{
		"base/notes.yaml": {"image: busybox", "image: lockstep.test/busybox"},
	})
	t.Cleanup(func() { e.remove(func() {}, "notes") })
	lockstep(ctx, t, prod, "apply", "--repo", e.repo.URL, "--path", "production", "--tag", tag)
	comesUp(ctx, t, "notes", "deployment/notes")
	if out := writeNote(ctx, t, "buy milk"); !strings.Contains(out, "buy milk") {
		t.Errorf("the notes are %q", out)
	}
	running := e.head()
	must(t, e.repo.Commit(ctx, "A label", func(dir string) error {
		return edits{"production/kustomization.yaml": {"resources: [../base]", "resources: [../base]\nlabels: [{pairs: {team: notes}}]"}}.make(dir)
	}))
	must(t, e.repo.Tag(ctx, "v2.0.0"))
	p := e.inPipeline(ctx, "notes", "notes", running)
	e.complete(p, running, "notes")

	// Of what runs there is a point now, and of what was not deployed yet there is none.
	vault := []string{"--vault", shared.vault, "--key-file", shared.key}
	e.finds(e.check(ctx, vault...), "LS404", "ProtectionPolicy notes/notes")
	if out, err := shared.lab.Lockstep(ctx, nil, append([]string{"check", e.dir}, vault...)...); err == nil || !strings.Contains(out, "RESTORABLE TODAY") {
		t.Errorf("the check does not fail for it: %v\n%s", err, out)
	}
	e.restorable(ctx, p, "Directory production", "--head", tag)
}

// writeNote does what the example's page says, through the Service.
func writeNote(ctx context.Context, t *testing.T, note string) string {
	t.Helper()
	out, err := shared.prod.Exec(ctx, "notes", "deployment/notes", "busybox", "wget", "-qO-", "--post-data", note, "http://127.0.0.1:8080/cgi-bin/notes")
	must(t, err)
	return out
}

func publishExample(ctx context.Context, t *testing.T, name, url string, changes edits) *example {
	t.Helper()
	e := &example{t: t, dir: t.TempDir()}
	var err error
	e.repo, err = shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()), e.dir)
	must(t, err)
	must(t, e.repo.Commit(ctx, "Begin", func(dir string) error {
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "examples", name))); err != nil {
			return err
		}
		if err := changes.make(dir); err != nil {
			return err
		}
		return filepath.WalkDir(dir, func(file string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(file) != ".yaml" {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(file, []byte(strings.ReplaceAll(string(text), url, e.repo.URL)), 0o644)
		})
	}))
	must(t, e.repo.Tag(ctx, tag))
	return e
}

func (all edits) make(dir string) error {
	for name, pairs := range all {
		file := filepath.Join(dir, filepath.FromSlash(name))
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := string(data)
		for pair := range slices.Chunk(pairs, 2) {
			if !strings.Contains(text, pair[0]) {
				return fmt.Errorf("%s does not say %q", name, pair[0])
			}
			text = strings.ReplaceAll(text, pair[0], pair[1])
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// bootstrap applies what `flux bootstrap --path clusters/production` does, and lets the stand-ins of Flux's controllers work until the test is
// over.
func bootstrap(ctx context.Context, e *example) {
	e.t.Helper()
	prod := shared.prod
	kubectl(ctx, e.t, prod, "create", "namespace", "flux-system")
	kubectl(ctx, e.t, prod, "apply", "-f", filepath.Join(e.dir, "clusters", "production", "flux-system", "sync.yaml"))
	c, git := engineClient(e.t, prod), standin.Git{Dir: e.t.TempDir()}
	flux := &standin.Flux{Client: c, Namespace: "flux-system", Fetch: git.Fetch}
	helm := &standin.Helm{Client: c, Fetch: git.Fetch}
	stop := atWork(ctx, e.t, func(ctx context.Context) error {
		if err := flux.Step(ctx); err != nil && !standin.IsRefused(err) { // the gate says no until it knows that nothing is to be saved
			return err
		}
		return helm.Step(ctx)
	})
	e.t.Cleanup(func() { e.remove(stop, "flux-system", "shop", "queue") })
}

// remove takes an example from the cluster, with its volumes, which its StorageClass retains.
func (e *example) remove(stop func(), namespaces ...string) {
	ctx := context.WithoutCancel(e.t.Context())
	stop()
	var volumes corev1.PersistentVolumeList
	must(e.t, shared.prod.List(ctx, &volumes))
	for i := range volumes.Items {
		if v := &volumes.Items[i]; v.Spec.StorageClassName == "data" {
			before := v.DeepCopy()
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
			must(e.t, shared.prod.Patch(ctx, v, client.MergeFrom(before)))
		}
	}
	for _, namespace := range namespaces { // all at once
		err := shared.prod.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		must(e.t, client.IgnoreNotFound(err))
	}
	for _, namespace := range namespaces {
		forget(ctx, e.t, shared.prod, namespace)
	}
}

// vaultOf is where a Vault of prod is.
func vaultOf(ctx context.Context, t *testing.T, name string) v1alpha1.S3Location {
	t.Helper()
	var v v1alpha1.Vault
	must(t, shared.prod.Get(ctx, client.ObjectKey{Name: name}, &v))
	return *v.Spec.S3
}

// flow writes a location as an example does.
func flow(t *testing.T, at v1alpha1.S3Location) string {
	t.Helper()
	data, err := json.Marshal(at)
	must(t, err)
	return string(data)
}

// withSecret makes what Git does not hold.
func withSecret(ctx context.Context, t *testing.T, namespace, name, entry string) {
	t.Helper()
	kubectl(ctx, t, shared.prod, "create", "namespace", namespace)
	kubectl(ctx, t, shared.prod, "-n", namespace, "create", "secret", "generic", name, "--from-literal="+entry+"="+rand.Text())
}

// comesUp waits until workloads of one pod are there and ready.
func comesUp(ctx context.Context, t *testing.T, namespace string, workloads ...string) {
	t.Helper()
	for _, workload := range workloads {
		ready := ""
		err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
			var err error
			ready, err = shared.prod.Kubectl(ctx, "-n", namespace, "get", workload, "--ignore-not-found", "-o", "jsonpath={.status.readyReplicas}")
			return ready == "1", err
		})
		if err != nil {
			out, _ := shared.prod.Kubectl(context.WithoutCancel(ctx), "-n", namespace, "get", "helmreleases,statefulsets,deployments,pods,pvc,events")
			t.Fatalf("%s of %s has %q ready replicas: %v\n%s", workload, namespace, ready, err, out)
		}
	}
}

func claimByHand(namespace, name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")}},
		},
	}
}

func pointsOf(ctx context.Context, t *testing.T, namespace string) []v1alpha1.RestorePoint {
	t.Helper()
	var list v1alpha1.RestorePointList
	must(t, shared.prod.List(ctx, &list, client.InNamespace(namespace)))
	return list.Items
}

// backup takes a point of what runs, which must be the tag with all of these claims.
func (e *example) backup(ctx context.Context, namespace, policy string, claims ...string) *v1alpha1.RestorePoint {
	e.t.Helper()
	p := &v1alpha1.RestorePoint{}
	must(e.t, json.Unmarshal([]byte(lockstep(ctx, e.t, shared.prod, "backup", policy, "-n", namespace, "-o", "json")), p))
	e.complete(p, e.head(), claims...)
	return p
}

// complete wants all of these claims in a point of a commit.
func (e *example) complete(p *v1alpha1.RestorePoint, commit string, claims ...string) {
	e.t.Helper()
	var saved []string
	for _, v := range p.Status.Volumes {
		if v.State != v1alpha1.VolumeSaved || v.Bytes == 0 {
			e.t.Errorf("volume %s is %s with %d bytes", v.Claim, v.State, v.Bytes)
		}
		saved = append(saved, v.Claim)
	}
	slices.Sort(saved)
	// The policy hears of its point a little later.
	must(e.t, lab.Eventually(e.t.Context(), patience, func(ctx context.Context) (bool, error) {
		policy := &v1alpha1.ProtectionPolicy{}
		err := shared.prod.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.PolicyRef.Name}, policy)
		return policy.Status.LastPoint != nil, err
	}))
	if !conditions.IsReady(p) || !slices.Equal(saved, claims) || p.Status.Revision == nil || p.Status.Revision.Commit != commit {
		e.t.Errorf("the point has %q of %+v, and is ready: %v", saved, p.Status.Revision, conditions.IsReady(p))
	}
}

// head is the commit that is checked out.
func (e *example) head() string {
	e.t.Helper()
	out, err := exec.CommandContext(e.t.Context(), "git", "-C", e.dir, "rev-parse", "HEAD").Output()
	must(e.t, err)
	return strings.TrimSpace(string(out))
}

// check is the report on the work tree, with the cluster for those that ask for it.
func (e *example) check(ctx context.Context, flags ...string) *report.Document {
	e.t.Helper()
	d := &report.Document{}
	must(e.t, json.Unmarshal([]byte(lockstep(ctx, e.t, shared.prod, append([]string{"check", e.dir, "--fail-on", "off", "--format", "json"}, flags...)...)), d))
	return d
}

// restorable wants of the check that all volumes are protected, that those of one application can be restored from a point today, and that
// nothing worse is found.
func (e *example) restorable(ctx context.Context, p *v1alpha1.RestorePoint, application string, flags ...string) *report.Document {
	e.t.Helper()
	flags = append(flags, "--live", "--vault", "primary")
	d := e.check(ctx, flags...)
	known := map[string]bool{p.Status.ID: true}
	for _, other := range pointsOf(ctx, e.t, p.Namespace) { // the schedule may have asked for a newer one
		known[other.Status.ID] = true
	}
	rows := 0
	for _, row := range d.Coverage {
		if row.Answer != coverage.Protected {
			e.t.Errorf("volume %s of %s is %s: %s", row.Volume, row.Application, row.Answer, row.Why)
		}
		if !strings.Contains(row.Application, application) {
			if row.Point != nil && row.Point.Found == "found" {
				e.t.Errorf("%s would be restored from the point of another: %+v", row.Application, row.Point)
			}
			continue
		}
		rows++
		if at := row.Point; at == nil || at.Found != "found" || at.Match != "Exact" || at.Vault != "primary" || !known[at.ID] {
			e.t.Errorf("volume %s of %s would be restored from %+v", row.Volume, row.Application, at)
		}
	}
	if rows != len(p.Status.Volumes) {
		e.t.Errorf("the check knows %d volumes of %q, and the point has %d", rows, application, len(p.Status.Volumes))
	}
	for _, f := range d.Findings { // of another cluster there is no point, and that is said
		if f.Severity == coverage.Error && f.Object.Namespace == p.Namespace && (f.Owner == "" || strings.Contains(f.Owner, application)) {
			e.t.Errorf("%s %s %s: %s", f.Rule, f.Object.Kind, f.Object.Name, f.Message)
		}
	}
	if e.t.Failed() {
		e.t.Log(lockstep(ctx, e.t, shared.prod, append([]string{"check", e.dir, "--fail-on", "off"}, flags...)...))
	}
	return d
}

// finds wants a finding of a rule about an object, as KIND NAMESPACE/NAME.
func (e *example) finds(d *report.Document, rule, object string) {
	e.t.Helper()
	if !slices.ContainsFunc(d.Findings, func(f coverage.Finding) bool {
		return f.Rule == rule && object == f.Object.Kind+" "+f.Object.Namespace+"/"+f.Object.Name
	}) {
		e.t.Errorf("%s about %s is not found; found are %+v", rule, object, d.Findings)
	}
}

// ofNamespace are the findings that the cluster gave about what is in a namespace.
func ofNamespace(d *report.Document, namespace string) []coverage.Finding {
	var found []coverage.Finding
	for _, f := range d.Findings {
		if strings.HasPrefix(f.Rule, "LS4") && f.Object.Namespace == namespace {
			found = append(found, f)
		}
	}
	return found
}

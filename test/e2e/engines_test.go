package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
	"github.com/lockstep-dr/lockstep/test/standin"
)

// edition tells by which commit it was deployed.
const edition = `apiVersion: v1
kind: ConfigMap
metadata: {name: NAME-edition, namespace: NAMESPACE}
data: {says: SAYS}
`

// byFlux is what a person applies to a fresh cluster before Flux's controllers run: the application is suspended, and what it needs is not.
const byFlux = `apiVersion: v1
kind: Namespace
metadata: {name: flux-system}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: engined, namespace: flux-system}
spec: {url: REPOSITORY, interval: 1m, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: base, namespace: flux-system}
spec: {path: ./base, interval: 10m, prune: true, sourceRef: {kind: GitRepository, name: engined}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, namespace: flux-system}
spec:
  suspend: true
  path: ./app
  interval: 10m
  prune: true
  sourceRef: {kind: GitRepository, name: engined}
  dependsOn: [{name: base}]
`

// byArgo syncs by itself, and so must not meet Argo CD's controllers before the restore holds it.
const byArgo = `apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: app, namespace: argocd}
spec:
  project: default
  destination: {server: https://kubernetes.default.svc, namespace: default}
  source: {repoURL: REPOSITORY, path: app, targetRevision: main}
  syncPolicy: {automated: {prune: true, selfHeal: true}}
`

// engined is an application in the directory app of a repository, beside the directory base, with a point of its tag. The branch has moved
// on since.
type engined struct {
	name, url      string
	tagged, digest string
}

// TestEngines restores onto a fresh cluster where Flux or Argo CD deploys the application: their objects are real ones, their controllers
// are stand-ins.
func TestEngines(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	dr := shared.dr
	e := newEngined(ctx, t, "engined")
	lockstep(ctx, t, dr, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
	definitions := t.TempDir()
	must(t, standin.WriteDefinitions(ctx, definitions))
	kubectl(ctx, t, dr, "apply", "--server-side", "-f", definitions)
	kubectl(ctx, t, dr, "wait", "--for=condition=Established", "--timeout=60s", "-f", definitions)
	t.Run("flux", e.restoreByFlux)
	t.Run("argocd", e.restoreByArgo)
	kubectl(ctx, t, dr, "delete", "-f", definitions)
	kubectl(ctx, t, dr, "-n", "default", "delete", "configmap", "base-edition")
	forget(ctx, t, shared.prod, e.name)
}

func newEngined(ctx context.Context, t *testing.T, name string) engined {
	t.Helper()
	must(t, shared.prod.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	must(t, shared.prod.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "seal"}, Data: map[string][]byte{"SEAL": []byte(rand.Text())},
	}))
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()), t.TempDir())
	must(t, err)
	publish := func(says string) {
		must(t, repo.Commit(ctx, says, func(dir string) error {
			files := map[string]string{
				"app/notes.yaml":   strings.ReplaceAll(notes, "NAME", name),
				"app/edition.yaml": strings.NewReplacer("NAMESPACE", name, "NAME", "app", "SAYS", says).Replace(edition),
				"base/base.yaml":   strings.NewReplacer("NAMESPACE", "default", "NAME", "base", "SAYS", says).Replace(edition),
			}
			for file, text := range files {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	publish("tagged")
	must(t, repo.Tag(ctx, tag))
	tagged, _, err := standin.Git{Dir: t.TempDir()}.Fetch(ctx, repo.URL, "main", "")
	must(t, err)
	lockstep(ctx, t, shared.prod, "apply", "--repo", repo.URL, "--path", "app", "--tag", tag)
	e := engined{name: name, url: repo.URL, tagged: tagged, digest: fillNotes(ctx, t, name)}
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", name)
	publish("head")
	return e
}

// restoreByFlux: Auto finds the Kustomization, the tag is deployed in the order of dependsOn with its data, and stays until it is let go.
func (e engined) restoreByFlux(t *testing.T) {
	ctx, dr := t.Context(), shared.dr
	objects := e.file(t, byFlux)
	kubectl(ctx, t, dr, "apply", "--server-side", "-f", objects)
	c := engineClient(t, shared.dr)
	w := &watched{t: t, c: c, e: e, app: "flux-system/app"}
	flux := &standin.Flux{Client: c, Namespace: "flux-system", Fetch: standin.Git{Dir: t.TempDir()}.Fetch, Applied: w.saw}
	w.work(ctx, flux.Step)
	e.says(ctx, t, "default", "base-edition", "head") // Flux runs

	restore := e.restore(ctx, t)
	if s := restore.Status.Engine; s == nil || s.Name != v1alpha1.EngineFlux {
		t.Errorf("the engine is %+v", s)
	}
	e.cameBack(ctx, t, w)
	e.says(ctx, t, "default", "base-edition", "tagged")
	order := []string{"flux-system/base head", "flux-system/base tagged", "flux-system/app tagged"}
	if got := w.applied(); !slices.Equal(got, order) {
		t.Errorf("applied: %q", got)
	}

	lockstep(ctx, t, dr, "restore", "release", restore.Name)
	e.goesOn(ctx, t)
	if marked := kubectl(ctx, t, dr, "get", "gitrepositories,kustomizations", "-A", "-o", "name", "-l", v1alpha1.LabelRestore); marked != "" {
		t.Errorf("still marked: %s", marked)
	}
	w.stop()
	must(t, dr.Delete(ctx, restore))
	kubectl(ctx, t, dr, "delete", "-f", objects)
	forget(ctx, t, dr, e.name)
}

// restoreByArgo: the Application syncs by itself and is held before Argo CD's controllers start. Deleting the Restore lets it go.
func (e engined) restoreByArgo(t *testing.T) {
	ctx, dr := t.Context(), shared.dr
	objects := e.file(t, byArgo)
	kubectl(ctx, t, dr, "apply", "--server-side", "-f", objects)
	c := engineClient(t, shared.dr)
	w := &watched{t: t, c: c, e: e, app: "argocd/app"}
	argo := &standin.Argo{Client: c, Namespace: "argocd", Fetch: standin.Git{Dir: t.TempDir()}.Fetch, Applied: w.saw}
	w.work(ctx, func(ctx context.Context) error {
		held, err := dr.Kubectl(ctx, "get", "applications", "-n", "argocd", "-o", "name", "-l", v1alpha1.LabelRestore)
		if err != nil || held == "" && len(w.applied()) == 0 {
			return err
		}
		return argo.Step(ctx)
	})

	restore := e.restore(ctx, t)
	if s := restore.Status.Engine; s == nil || s.Name != v1alpha1.EngineArgoCD {
		t.Errorf("the engine is %+v", s)
	}
	e.cameBack(ctx, t, w)
	if got := w.applied(); !slices.Equal(got, []string{"argocd/app tagged"}) {
		t.Errorf("applied: %q", got)
	}

	must(t, dr.Delete(ctx, restore))
	e.goesOn(ctx, t)
	spec := kubectl(ctx, t, dr, "get", "application", "-n", "argocd", "app", "-o", "jsonpath={.spec.source.targetRevision} {.spec.syncPolicy.automated}")
	if spec != `main {"prune":true,"selfHeal":true}` {
		t.Errorf("the Application is left at %s", spec)
	}
	w.stop()
	kubectl(ctx, t, dr, "delete", "-f", objects)
	forget(ctx, t, dr, e.name)
}

// restore brings the tag back onto dr, and returns the Restore.
func (e engined) restore(ctx context.Context, t *testing.T) *v1alpha1.Restore {
	t.Helper()
	lockstep(ctx, t, shared.dr, "restore", "--tag", tag, "--repo", e.url, "--path", "app", "--vault", "primary")
	var all v1alpha1.RestoreList
	must(t, shared.dr.List(ctx, &all, client.InNamespace(v1alpha1.SystemNamespace)))
	for i := range all.Items {
		if r := &all.Items[i]; r.Spec.Source.URL == e.url && r.DeletionTimestamp == nil {
			return r
		}
	}
	t.Fatal("there is no Restore")
	return nil
}

// cameBack proves that the data is that of the point, and that the engine looks and looks, and stays at the tag.
func (e engined) cameBack(ctx context.Context, t *testing.T, w *watched) {
	t.Helper()
	if got := notesDigest(ctx, t, shared.dr, e.name); got != e.digest {
		t.Errorf("the data is %s, was %s", got, e.digest)
	}
	w.looksAgain(ctx)
	e.says(ctx, t, e.name, "app-edition", "tagged")
	nothingLeft(ctx, t, shared.dr, e.name)
}

// goesOn waits until the engine has deployed the head of the branch, which must not touch the data.
func (e engined) goesOn(ctx context.Context, t *testing.T) {
	t.Helper()
	e.says(ctx, t, e.name, "app-edition", "head")
	if got := notesDigest(ctx, t, shared.dr, e.name); got != e.digest {
		t.Errorf("after the release the data is %s, was %s", got, e.digest)
	}
}

func (e engined) says(ctx context.Context, t *testing.T, namespace, name, want string) {
	t.Helper()
	says(ctx, t, shared.dr, namespace, name, want)
}

// says waits until a ConfigMap tells that a commit was deployed.
func says(ctx context.Context, t *testing.T, c *lab.Cluster, namespace, name, want string) {
	t.Helper()
	m := &corev1.ConfigMap{}
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, m)
		return err == nil && m.Data["says"] == want, client.IgnoreNotFound(err)
	})
	if err != nil {
		out, _ := c.Kubectl(ctx, "get", "gitrepositories,kustomizations,applications,restores,restorepoints", "-A", "-o", "yaml")
		t.Fatalf("%s says %q, not %q: %v\n%s", name, m.Data["says"], want, err, out)
	}
}

// file writes a manifest with the repository's URL.
func (e engined) file(t *testing.T, manifest string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "engine.yaml")
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(manifest, "REPOSITORY", e.url)), 0o600))
	return path
}

// engineClient knows the kinds of Flux, too.
func engineClient(t *testing.T, cluster *lab.Cluster) client.Client {
	t.Helper()
	scheme := cluster.Scheme()
	must(t, kustomizev1.AddToScheme(scheme))
	must(t, sourcev1.AddToScheme(scheme))
	c, err := client.New(cluster.Config, client.Options{Scheme: scheme})
	must(t, err)
	return c
}

// watched is an engine at work. It keeps what was applied, and that the application was let in only when its claims were reserved.
type watched struct {
	t   *testing.T
	c   client.Reader
	e   engined
	app string

	stop  func()
	mu    sync.Mutex
	lines []string
	looks int
}

// work lets the engine take steps until it is stopped.
func (w *watched) work(ctx context.Context, step func(context.Context) error) {
	w.stop = atWork(ctx, w.t, func(ctx context.Context) error {
		err := step(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.looks++
		return err
	})
	w.t.Cleanup(w.stop)
}

// atWork lets a stand-in take a step each half second until it is stopped. Others may change its objects meanwhile.
func atWork(ctx context.Context, t *testing.T, step func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := step(ctx); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) {
				t.Errorf("the stand-in: %v", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-done })
}

func (w *watched) saw(ctx context.Context, by, commit string) {
	line := by + " head"
	if commit == w.e.tagged {
		line = by + " tagged"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.lines, line) {
		return
	}
	w.lines = append(w.lines, line)
	if by != w.app {
		return
	}
	for _, name := range []string{"data-notes-0", "drafts"} {
		claim := &corev1.PersistentVolumeClaim{}
		if err := w.c.Get(ctx, client.ObjectKey{Namespace: w.e.name, Name: name}, claim); err != nil || claim.Spec.VolumeName == "" {
			w.t.Errorf("%s while claim %s was not reserved: %v", line, name, err)
		}
	}
}

func (w *watched) applied() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lines)
}

// looksAgain waits until the engine has looked at everything some times more.
func (w *watched) looksAgain(ctx context.Context) {
	w.t.Helper()
	looks := func() int { w.mu.Lock(); defer w.mu.Unlock(); return w.looks }
	enough := looks() + 4
	must(w.t, lab.Eventually(ctx, patience, func(context.Context) (bool, error) { return looks() >= enough, nil }))
}

func kubectl(ctx context.Context, t *testing.T, c *lab.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(ctx, args...)
	must(t, err)
	return strings.TrimSpace(out)
}

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
	"github.com/lockstep-dr/lockstep/test/standin"
)

const hookedName = "hooked"

// hookedByArgo syncs by itself.
const hookedByArgo = `apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: hooked, namespace: argocd}
spec:
  project: default
  destination: {server: https://kubernetes.default.svc, namespace: hooked}
  source: {repoURL: REPOSITORY, path: app, targetRevision: main}
  syncPolicy: {automated: {prune: true, selfHeal: true}}
`

// hookedKustomization is what docs/argocd.md asks for. RETRIES is how often the Job is tried again, which takes longer each time.
const hookedKustomization = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: hooked
resources: [notes.yaml, edition.yaml]
components: [../hooks]
images: [{name: lockstep, newName: IMAGE, newTag: TAG}]
patches:
  - target: {kind: Job, name: lockstep-.*}
    patch: |-
      - {op: replace, path: /spec/template/spec/containers/0/env/0/value, value: argocd/hooked}
      - {op: replace, path: /spec/backoffLimit, value: RETRIES}
`

// hooked is an application that Argo CD deploys, with the hooks of examples/argocd, on prod.
type hooked struct {
	t    *testing.T
	repo *shop.Repository
	mu   sync.Mutex
	// applied are the commits of which something was applied that is no hook, each with how many points before it were complete.
	applied map[string]int
}

// TestArgoHooks: the Jobs of examples/argocd/hooks run with the permissions that come with them. A sync waits until the commit that runs is
// saved, and one whose hook fails applies nothing. The Application is a real object, and the Jobs run; who starts them is the stand-in for
// Argo CD's controller.
func TestArgoHooks(t *testing.T) {
	watchOver(t)
	ctx, prod := t.Context(), shared.prod
	must(t, prod.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: hookedName}}))
	must(t, prod.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: hookedName, Name: "seal"}, Data: map[string][]byte{"SEAL": []byte(rand.Text())},
	}))
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", hookedName, time.Now().UnixNano()), t.TempDir())
	must(t, err)
	h := &hooked{t: t, repo: repo, applied: map[string]int{}}
	definitions := t.TempDir()
	must(t, standin.WriteDefinitions(ctx, definitions))
	kubectl(ctx, t, prod, "apply", "--server-side", "-f", definitions)
	kubectl(ctx, t, prod, "wait", "--for=condition=Established", "--timeout=60s", "-f", definitions)

	first := h.publish(ctx, "first", 2)
	objects := engined{url: repo.URL}.file(t, hookedByArgo)
	kubectl(ctx, t, prod, "apply", "--server-side", "-f", objects)
	access := h.access(ctx)
	argo := &standin.Argo{Client: engineClient(t, prod), Namespace: "argocd", Fetch: standin.Git{Dir: t.TempDir()}.Fetch, Applied: h.saw}
	stop := atWork(ctx, t, argo.Step)
	defer stop()
	h.synced(ctx, first, "Succeeded") // nothing ran before: nothing is to be saved
	says(ctx, t, prod, hookedName, "app-edition", "first")
	h.point(ctx, v1alpha1.TriggerPostDeploy, "", first)
	digest := fillNotes(ctx, t, hookedName)

	second := h.publish(ctx, "second", 2)
	h.synced(ctx, second, "Succeeded")
	says(ctx, t, prod, hookedName, "app-edition", "second")
	h.point(ctx, v1alpha1.TriggerPreDeploy, second, first)
	h.point(ctx, v1alpha1.TriggerPostDeploy, "", second)
	if got := notesDigest(ctx, t, prod, hookedName); got != digest {
		t.Errorf("the data is %s, was %s", got, digest)
	}

	breakBackups(ctx, t, hookedName)
	third := h.publish(ctx, "third", 0)
	h.synced(ctx, third, "Failed")
	says(ctx, t, prod, hookedName, "app-edition", "second")
	if log := kubectl(ctx, t, prod, "logs", "-n", hookedName, "job/lockstep-presync"); !strings.Contains(log, "does not come from a CSI driver") {
		t.Errorf("the hook that failed says:\n%s", log)
	}
	stop()
	if n, found := h.applied[second]; !found || n == 0 {
		t.Error("the second commit was applied before the point of the first was complete")
	}
	if _, found := h.applied[third]; found {
		t.Error("a commit whose hook failed was applied")
	}
	kubectl(ctx, t, prod, "delete", "-f", access)
	kubectl(ctx, t, prod, "delete", "-f", objects)
	kubectl(ctx, t, prod, "delete", "-f", definitions)
	forget(ctx, t, prod, hookedName)
	kubectl(ctx, t, prod, "delete", "pv", "by-hand")
}

// publish commits the application with its hooks, and returns the commit.
func (h *hooked) publish(ctx context.Context, says string, retries int) (commit string) {
	h.t.Helper()
	image, tag, _ := strings.Cut(shared.lab.Image(), ":")
	must(h.t, h.repo.Commit(ctx, says, func(dir string) error {
		if err := os.CopyFS(filepath.Join(dir, "hooks"), os.DirFS(argoExample("hooks"))); err != nil && !os.IsExist(err) {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, "app"), 0o755); err != nil {
			return err
		}
		for file, text := range map[string]string{
			"notes.yaml":         strings.ReplaceAll(notes, "NAME", hookedName),
			"edition.yaml":       strings.NewReplacer("NAMESPACE", hookedName, "NAME", "app", "SAYS", says).Replace(edition),
			"kustomization.yaml": strings.NewReplacer("IMAGE", image, "TAG", tag, "RETRIES", fmt.Sprint(retries)).Replace(hookedKustomization),
		} {
			if err := os.WriteFile(filepath.Join(dir, "app", file), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	}))
	commit, _, err := standin.Git{Dir: h.t.TempDir()}.Fetch(ctx, h.repo.URL, "main", "")
	must(h.t, err)
	return commit
}

func argoExample(name string) string { return filepath.Join("..", "..", "examples", "argocd", name) }

// access lets the hooks read their Application, by examples/argocd/access with other names.
func (h *hooked) access(ctx context.Context) (file string) {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(argoExample("access"), "access.yaml"))
	must(h.t, err)
	file = filepath.Join(h.t.TempDir(), "access.yaml")
	must(h.t, os.WriteFile(file, []byte(strings.ReplaceAll(string(data), "shop", hookedName)), 0o600))
	kubectl(ctx, h.t, shared.prod, "apply", "-f", file)
	return file
}

// saw notes how many points before a commit are complete when the first of its objects is applied.
func (h *hooked) saw(ctx context.Context, _, commit string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, found := h.applied[commit]; found {
		return
	}
	complete := 0
	for _, p := range h.points(ctx) {
		if p.Spec.Before == commit && conditions.IsReady(&p) {
			complete++
		}
	}
	h.applied[commit] = complete
}

// synced waits until the operation of a commit has ended, as it should.
func (h *hooked) synced(ctx context.Context, commit, phase string) {
	h.t.Helper()
	var got string
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (_ bool, err error) {
		got, err = shared.prod.Kubectl(ctx, "get", "application", "-n", "argocd", hookedName, "-o",
			"jsonpath={.status.operationState.syncResult.revision} {.status.operationState.phase}")
		return strings.HasPrefix(got, commit) && !strings.HasSuffix(got, " Running"), err
	})
	if err != nil || got != commit+" "+phase {
		out, _ := shared.prod.Kubectl(ctx, "get", "-n", hookedName, "jobs,pods,restorepoints", "-o", "yaml")
		h.t.Fatalf("the sync of %s is %q, not %q: %v\n%s", commit, got, phase, err, out)
	}
}

// point waits until there is a complete point of a commit, with the trigger and what is to come.
func (h *hooked) point(ctx context.Context, trigger v1alpha1.Trigger, before, commit string) {
	h.t.Helper()
	must(h.t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		for _, p := range h.points(ctx) {
			if p.Spec.Trigger == trigger && p.Spec.Before == before && conditions.IsReady(&p) && p.Status.Revision.Commit == commit {
				return true, nil
			}
		}
		return false, nil
	}))
}

func (h *hooked) points(ctx context.Context) []v1alpha1.RestorePoint {
	var list v1alpha1.RestorePointList
	if err := shared.prod.List(ctx, &list, client.InNamespace(hookedName)); err != nil && ctx.Err() == nil {
		h.t.Errorf("listing points: %v", err)
	}
	return list.Items
}

package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
	"github.com/lockstep-dr/lockstep/test/standin"
)

// gatedByFlux deploys the application only after a restore point of what runs.
const gatedByFlux = `apiVersion: v1
kind: Namespace
metadata: {name: flux-system}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: gated, namespace: flux-system}
spec: {url: REPOSITORY, interval: 1m, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: gated, namespace: flux-system, annotations: {lockstep.dev/pre-deploy: required}}
spec: {path: ./app, interval: 10m, prune: true, sourceRef: {kind: GitRepository, name: gated}}
`

// gated is an application behind the gate, on prod.
type gated struct {
	t    *testing.T
	repo *shop.Repository
	mu   sync.Mutex
	// early are deploys that began before their point was complete.
	early []string
}

const gatedName = "gated"

// TestGate: a deploy waits for a point of the commit that runs, and goes on; one whose point fails is blocked, and says so; without
// Lockstep no gate stays closed. Flux's objects and the admission policies are real, its controllers are stand-ins.
func TestGate(t *testing.T) {
	watchOver(t)
	ctx, prod := t.Context(), shared.prod
	must(t, prod.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: gatedName}}))
	must(t, prod.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: gatedName, Name: "seal"}, Data: map[string][]byte{"SEAL": []byte(rand.Text())},
	}))
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", gatedName, time.Now().UnixNano()), t.TempDir())
	must(t, err)
	g := &gated{t: t, repo: repo}
	definitions := t.TempDir()
	must(t, standin.WriteDefinitions(ctx, definitions))
	kubectl(ctx, t, prod, "apply", "--server-side", "-f", definitions)
	kubectl(ctx, t, prod, "wait", "--for=condition=Established", "--timeout=60s", "-f", definitions)

	g.publish(ctx, "first")
	objects := engined{url: repo.URL}.file(t, gatedByFlux)
	kubectl(ctx, t, prod, "apply", "--server-side", "-f", objects)
	stop := g.flux(ctx)
	defer stop()
	g.says(ctx, "first") // nothing ran before: nothing is to be saved
	digest := fillNotes(ctx, t, gatedName)
	first := g.head(ctx)

	g.publish(ctx, "second")
	g.says(ctx, "second")
	points := g.points(ctx)
	point := points[0]
	for _, p := range points { // one that failed was taken again
		if conditions.IsReady(&p) {
			point = p
		}
	}
	if point.Spec.Before != g.head(ctx) || point.Status.Revision == nil || point.Status.Revision.Commit != first || !conditions.IsReady(&point) {
		t.Errorf("the point before the deploy is %+v, %+v", point.Spec, point.Status.Revision)
	}
	if got := notesDigest(ctx, t, prod, gatedName); got != digest {
		t.Errorf("the data is %s, was %s", got, digest)
	}

	breakBackups(ctx, t, gatedName)
	g.publish(ctx, "third")
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		out, err := shared.lab.Lockstep(ctx, prod, "status", "-n", "flux-system")
		var exit *lab.ExitError
		if err != nil && !errors.As(err, &exit) {
			return false, err
		}
		return exit != nil && strings.Contains(out, "kustomization/gated -n flux-system does not deploy main@") && strings.Contains(out, "does not come from a CSI driver"), nil
	}))
	g.says(ctx, "second")

	t.Cleanup(func() { // other tests need it
		_, err := shared.lab.Lockstep(context.WithoutCancel(ctx), prod, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
		must(t, err)
	})
	lockstep(ctx, t, prod, "uninstall")
	g.says(ctx, "third")
	if len(g.early) > 0 {
		t.Errorf("deployed before the point was complete: %q", g.early)
	}
	if n := len(g.points(ctx)); n == 0 {
		t.Error("the points are gone with the controller")
	}
	stop()
	kubectl(ctx, t, prod, "delete", "-f", objects)
	lockstep(ctx, t, prod, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
	forget(ctx, t, prod, gatedName) // with the controller, which lets its points go
	kubectl(ctx, t, prod, "delete", "pv", "by-hand")
	kubectl(ctx, t, prod, "delete", "-f", definitions)
}

func (g *gated) publish(ctx context.Context, says string) {
	g.t.Helper()
	must(g.t, g.repo.Commit(ctx, says, func(dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "app"), 0o755); err != nil {
			return err
		}
		for file, text := range map[string]string{
			"notes.yaml":   strings.ReplaceAll(notes, "NAME", gatedName),
			"edition.yaml": strings.NewReplacer("NAMESPACE", gatedName, "NAME", "app", "SAYS", says).Replace(edition),
		} {
			if err := os.WriteFile(filepath.Join(dir, "app", file), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	}))
}

// head is the commit at the end of the branch.
func (g *gated) head(ctx context.Context) string {
	g.t.Helper()
	commit, _, err := standin.Git{Dir: g.t.TempDir()}.Fetch(ctx, g.repo.URL, "main", "")
	must(g.t, err)
	return commit
}

// flux lets the stand-in take a step each half second. That it may not begin is what the gate is for.
func (g *gated) flux(ctx context.Context) (stop func()) {
	c := engineClient(g.t, shared.prod)
	flux := &standin.Flux{Client: c, Namespace: "flux-system", Fetch: standin.Git{Dir: g.t.TempDir()}.Fetch, Applied: g.applied}
	return atWork(ctx, g.t, func(ctx context.Context) error {
		if err := flux.Step(ctx); !standin.IsRefused(err) {
			return err
		}
		return nil
	})
}

// applied notes a deploy that begins before the point of it is complete.
func (g *gated) applied(ctx context.Context, _, commit string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := shared.prod.Kubectl(ctx, "get", "validatingadmissionpolicybinding", "lockstep-gate"); err != nil {
		return // there is no gate any more
	}
	var edition corev1.ConfigMap
	if err := shared.prod.Get(ctx, client.ObjectKey{Namespace: gatedName, Name: "app-edition"}, &edition); err != nil {
		return // the first
	}
	var list v1alpha1.RestorePointList
	if err := shared.prod.List(ctx, &list, client.InNamespace(gatedName)); err != nil {
		return
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.Spec.Before == commit && conditions.IsReady(p) {
			return
		}
	}
	if edition.Data["says"] != "first" || len(list.Items) > 0 { // the first is applied again and again
		g.early = append(g.early, commit)
	}
}

func (g *gated) says(ctx context.Context, want string) {
	g.t.Helper()
	says(ctx, g.t, shared.prod, gatedName, "app-edition", want)
}

func (g *gated) points(ctx context.Context) []v1alpha1.RestorePoint {
	g.t.Helper()
	var list v1alpha1.RestorePointList
	must(g.t, shared.prod.List(ctx, &list, client.InNamespace(gatedName)))
	if len(list.Items) == 0 {
		g.t.Fatal("no point was taken")
	}
	return list.Items
}

// breakBackups adds a claim on prod that cannot be snapshotted.
func breakBackups(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	must(t, shared.prod.Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}},
		},
	}))
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "by-hand"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new(""), VolumeName: "by-hand", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}
	must(t, shared.prod.Create(ctx, claim))
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		err := shared.prod.Get(ctx, client.ObjectKeyFromObject(claim), claim)
		return claim.Status.Phase == corev1.ClaimBound, err
	}))
}

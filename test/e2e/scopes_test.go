package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

const (
	scopesFirst = "scopes"
	scopesLast  = "scopes-after"
)

// TestScopes brings back less than an application, and more than one: one workload, one volume, one file, two applications in order.
func TestScopes(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	digests, sources := map[string]string{}, map[string]v1alpha1.GitSource{}
	for _, name := range []string{scopesFirst, scopesLast} {
		repo, digest := newNotes(ctx, t, name)
		digests[name], sources[name] = digest, v1alpha1.GitSource{URL: repo.URL, Path: "."}
		lockstep(ctx, t, prod, "backup", "notes", "-n", name)
		defer forget(context.WithoutCancel(ctx), t, prod, name)
	}
	id := newestPoint(ctx, t, scopesFirst+"/notes")
	lockstep(ctx, t, dr, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)

	t.Run("one file or directory", func(t *testing.T) { oneFile(t.Context(), t, id) })
	t.Run("one volume beside the running one", func(t *testing.T) { oneVolume(t.Context(), t, id, digests[scopesFirst]) })
	t.Run("one workload", func(t *testing.T) { oneWorkload(t.Context(), t, sources[scopesFirst], digests[scopesFirst]) })
	t.Run("applications in order", func(t *testing.T) { inOrder(t.Context(), t, sources, digests) })
	t.Run("a doctor who may not look", func(t *testing.T) { doctorWithoutRights(t.Context(), t) })
}

// newestPoint is the id of an application's newest point, as the vault tells it.
func newestPoint(ctx context.Context, t *testing.T, application string) string {
	t.Helper()
	out := lockstep(ctx, t, nil, "points", "--vault", shared.vault, "--key-file", shared.key, "--application", application, "-o", "json")
	var points []struct {
		ID string `json:"id"`
	}
	must(t, json.Unmarshal([]byte(out), &points))
	if len(points) == 0 {
		t.Fatalf("application %s has no point", application)
	}
	return points[0].ID
}

// oneFile gets a directory and a file out of a point, with no cluster.
func oneFile(ctx context.Context, t *testing.T, id string) {
	volume, to := id+":"+scopesFirst+"/data-notes-0", t.TempDir()
	lockstep(ctx, t, nil, "volume", "extract", volume, "a", "--to", to, "--vault", shared.vault, "--key-file", shared.key)
	big, err := os.ReadFile(filepath.Join(to, "a", "big"))
	must(t, err)
	want, err := shared.prod.Exec(ctx, scopesFirst, "notes-0", "busybox", "sha256sum", "/data/a/big")
	must(t, err)
	if sum := sha256.Sum256(big); hex.EncodeToString(sum[:]) != strings.Fields(want)[0] {
		t.Error("the file that was extracted is another one")
	}
	if notes, err := os.ReadDir(filepath.Join(to, "a", "b")); err != nil || len(notes) != 200 {
		t.Errorf("%d notes were extracted: %v", len(notes), err)
	}
	if target, err := os.Readlink(filepath.Join(to, "a", "link")); err != nil || target != "b/7" {
		t.Errorf("the symlink leads to %q: %v", target, err)
	}
	if got := lockstep(ctx, t, nil, "volume", "cat", volume, "a/b/7", "--vault", shared.vault, "--key-file", shared.key); got != "note 7 of notes-0\n" {
		t.Errorf("cat says %q", got)
	}
	refused(ctx, t, nil, 4, "a/big", "volume", "cat", volume, "a/bog", "--vault", shared.vault, "--key-file", shared.key)
}

// looker mounts a claim to look into it.
const looker = `apiVersion: v1
kind: Pod
metadata: {name: looker, namespace: scopes}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: looker
      image: lockstep.test/busybox:1
      command: [busybox, sleep, "1000000"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes:
    - {name: data, persistentVolumeClaim: {claimName: look}}
`

// oneVolume restores a volume into a new claim of the namespace where the application runs with newer data.
func oneVolume(ctx context.Context, t *testing.T, id, digest string) {
	prod := shared.prod
	_, err := prod.Exec(ctx, scopesFirst, "notes-0", "busybox", "sh", "-ec", "echo newer >/data/a/b/7; busybox sync")
	must(t, err)
	claims, now := claimsOf(t, prod, scopesFirst), notesDigest(ctx, t, prod, scopesFirst)
	lockstep(ctx, t, prod, "restore", "--point", id, "--vault", "primary", "--volume", scopesFirst+"/data-notes-0="+scopesFirst+"/look")
	create(ctx, t, prod, looker)
	_, err = prod.PodReady(ctx, scopesFirst, "looker")
	must(t, err)
	if got := digestOfNotes(ctx, t, prod, scopesFirst, "looker"); got != strings.Fields(digest)[0] {
		t.Errorf("the new claim holds %s, want %s", got, digest)
	}
	after := claimsOf(t, prod, scopesFirst)
	delete(after, "look")
	if notesDigest(ctx, t, prod, scopesFirst) != now || !maps.Equal(claims, after) {
		t.Errorf("what runs was touched: claims %v, were %v", after, claims)
	}
	nothingLeft(ctx, t, prod, scopesFirst)
	boundVolumesHaveTheirPolicyBack(ctx, t, prod, scopesFirst)
}

// oneWorkload restores the StatefulSet, with its volume and the Secret that it needs, and nothing else.
func oneWorkload(ctx context.Context, t *testing.T, source v1alpha1.GitSource, digest string) {
	dr := shared.dr
	defer forget(context.WithoutCancel(ctx), t, dr, scopesFirst)
	lockstep(ctx, t, dr, "restore", "--tag", tag, "--repo", source.URL, "--path", source.Path, "--vault", "primary", "--only", "StatefulSet/"+scopesFirst+"/notes")
	if got := digestOfNotes(ctx, t, dr, scopesFirst, "notes-0"); got != strings.Fields(digest)[0] {
		t.Errorf("the workload's volume holds %s, want %s", got, digest)
	}
	if claims := claimsOf(t, dr, scopesFirst); len(claims) != 1 {
		t.Errorf("claims %v, want that of the workload alone", claims)
	}
	var deployments appsv1.DeploymentList
	must(t, dr.List(ctx, &deployments, client.InNamespace(scopesFirst)))
	if len(deployments.Items) > 0 {
		t.Errorf("%d other workloads came back", len(deployments.Items))
	}
	seal := &corev1.Secret{}
	must(t, dr.Get(ctx, client.ObjectKey{Namespace: scopesFirst, Name: "seal"}, seal))
	nothingLeft(ctx, t, dr, scopesFirst)
}

// inOrder lets one restore wait for another: first one that stops, then, when that is mended, one that is under way.
func inOrder(ctx context.Context, t *testing.T, sources map[string]v1alpha1.GitSource, digests map[string]string) {
	dr := shared.dr
	first, last := orderedRestore(scopesFirst, sources[scopesFirst]), orderedRestore(scopesLast, sources[scopesLast])
	first.Spec.From.Tag = "v0.0.0"
	last.Spec.DependsOn = []v1alpha1.RestoreReference{{Name: first.Name}}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		for _, r := range []*v1alpha1.Restore{first, last} {
			must(t, client.IgnoreNotFound(dr.Delete(ctx, r)))
			forget(ctx, t, dr, strings.TrimPrefix(r.Name, "order-"))
		}
	})
	must(t, dr.Create(ctx, first))
	must(t, dr.Create(ctx, last))
	awaitSaying(ctx, t, last, v1alpha1.ReasonDependencyNotReady, first.Name)
	awaitSaying(ctx, t, last, v1alpha1.ReasonDependencyNotReady, v1alpha1.ReasonSourceUnknown)
	if claims := claimsOf(t, dr, scopesLast); len(claims) > 0 || last.Status.Point != nil {
		t.Errorf("the one that waits has begun: point %v, claims %v", last.Status.Point, claims)
	}

	must(t, dr.Delete(ctx, first))
	awaitSaying(ctx, t, last, v1alpha1.ReasonDependencyNotReady, "does not exist")
	first = orderedRestore(scopesFirst, sources[scopesFirst])
	must(t, dr.Create(ctx, first))
	for _, r := range []*v1alpha1.Restore{first, last} {
		must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
			err := dr.Get(ctx, client.ObjectKeyFromObject(r), r)
			return err == nil && isReady(r), err
		}))
	}
	if last.Status.ReservedAt.Before(first.Status.CompletedAt) {
		t.Errorf("the second reserved its claims at %s, before the first was complete at %s", last.Status.ReservedAt, first.Status.CompletedAt)
	}
	for name, want := range digests {
		if got := notesDigest(ctx, t, dr, name); got != want {
			t.Errorf("%s holds %s, want %s", name, got, want)
		}
	}
	nothingLeft(ctx, t, dr, scopesFirst)
	nothingLeft(ctx, t, dr, scopesLast)
}

func orderedRestore(name string, source v1alpha1.GitSource) *v1alpha1.Restore {
	return &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "order-" + name},
		Spec:       v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Vault: "primary", Tag: tag}, Source: source},
	}
}

// awaitSaying waits until a restore on dr is not ready for a reason and says a word.
func awaitSaying(ctx context.Context, t *testing.T, r *v1alpha1.Restore, reason, word string) {
	t.Helper()
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		if err := shared.dr.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return false, err
		}
		c := conditionOf(r, v1alpha1.ConditionReady)
		return c != nil && c.Status != metav1.ConditionTrue && c.Reason == reason && strings.Contains(c.Message, word), nil
	})
	if err != nil {
		t.Fatalf("%s does not say %s, %q: %v; conditions %+v", r.Name, reason, word, err, r.Status.Conditions)
	}
}

// doctorWithoutRights: who may ask next to nothing is told so, check by check, and does not hear that all is well.
func doctorWithoutRights(ctx context.Context, t *testing.T) {
	dr := shared.dr
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "passer-by"}}
	must(t, dr.Create(ctx, account))
	defer func() { must(t, dr.Delete(context.WithoutCancel(ctx), account)) }()
	token, err := dr.Kubectl(ctx, "-n", account.Namespace, "create", "token", account.Name)
	must(t, err)
	config := clientcmdapi.NewConfig()
	config.Clusters["dr"] = &clientcmdapi.Cluster{Server: dr.Config.Host, CertificateAuthorityData: dr.Config.CAData, CertificateAuthority: dr.Config.CAFile}
	config.AuthInfos["passer-by"] = &clientcmdapi.AuthInfo{Token: strings.TrimSpace(token)}
	config.Contexts["dr"] = &clientcmdapi.Context{Cluster: "dr", AuthInfo: "passer-by"}
	config.CurrentContext = "dr"
	stranger := &lab.Cluster{Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	must(t, clientcmd.WriteToFile(*config, stranger.Kubeconfig))

	_, err = shared.lab.Lockstep(ctx, stranger, "doctor", "-o", "json")
	var exit *lab.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 {
		t.Fatalf("got %v, want exit code 3", err)
	}
	for _, word := range []string{"you may not begin a restore", "forbidden"} {
		if !strings.Contains(exit.Output, word) {
			t.Errorf("it does not say %q:\n%s", word, exit.Output)
		}
	}
	if _, err := shared.lab.Lockstep(ctx, dr, "doctor"); errors.As(err, &exit) && exit.Code == 3 {
		t.Errorf("who may ask everything hears: %v", err)
	}
}

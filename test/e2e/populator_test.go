package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// diary is an application whose claims ask for their data by themselves: one manifest for the first deploy and for recovery. One
// claim is bound at once, two come from a template and wait for their first consumer, and one is of a class that means another thing
// on each cluster.
const diary = `apiVersion: v1
kind: Namespace
metadata: {name: NAME}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: diary, namespace: NAME}
spec: {vaults: [primary]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: diary, namespace: NAME}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 128Mi}}
  dataSourceRef: {apiGroup: lockstep.dev, kind: ProtectionPolicy, name: diary}
---
apiVersion: v1
kind: Pod
metadata: {name: diary, namespace: NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: diary
      image: lockstep.test/busybox:1
      command: [busybox, sleep, "1000000"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: diary}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pages, namespace: NAME}
spec:
  serviceName: pages
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: pages}}
  template:
    metadata: {labels: {app: pages}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: pages
          image: lockstep.test/busybox:1
          command: [busybox, sleep, "1000000"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: lockstep-wait
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 64Mi}}
        dataSourceRef: {apiGroup: lockstep.dev, kind: ProtectionPolicy, name: diary}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: loose, namespace: NAME}
spec:
  storageClassName: shelf
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
  dataSourceRef: {apiGroup: lockstep.dev, kind: ProtectionPolicy, name: diary}
---
apiVersion: v1
kind: Pod
metadata: {name: loose, namespace: NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: loose
      image: lockstep.test/busybox:1
      command: [busybox, sleep, "1000000"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: loose}
`

// writers are the pods of the diary by the claim that each has.
var writers = map[string]string{"diary": "diary", "data-pages-0": "pages-0", "data-pages-1": "pages-1", "loose": "loose"}

// journal is the diary in a repository of its own.
type journal struct {
	ns, dir string
	repo    *shop.Repository
}

// TestClaimFindsItsData deploys the same manifest with no Restore asked for, on prod first, and then on a fresh cluster: there is one
// case for each answer that a vault may give, and one for everybody who may say which commit is being deployed.
func TestClaimFindsItsData(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	j := journal{ns: "diary", dir: t.TempDir()}
	var err error
	j.repo, err = shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", j.ns, time.Now().UnixNano()), j.dir)
	must(t, err)
	must(t, j.repo.Commit(ctx, "Begin", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "diary.yaml"), []byte(strings.ReplaceAll(diary, "NAME", j.ns)), 0o644)
	}))
	must(t, j.repo.Tag(ctx, tag))
	// On prod this class is that of a driver which leaves such claims to Lockstep, on dr that of one which takes no notice of them.
	for provisioner, c := range map[string]*lab.Cluster{"csi.lockstep.test": shared.prod, "local.lockstep.test": shared.dr} {
		wait := storagev1.VolumeBindingWaitForFirstConsumer
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "shelf"}, Provisioner: provisioner, VolumeBindingMode: &wait}
		must(t, c.Create(ctx, class))
		defer func() { must(t, c.Delete(context.WithoutCancel(ctx), class)) }()
	}
	lockstep(ctx, t, shared.dr, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"absent", j.firstDeploy}, {"unknown", j.unknown}, {"found", j.found}, {"undecided", j.undecided},
		{"restored", j.restored}, {"engine", j.engine},
	} {
		if !t.Run(c.name, c.run) {
			break // each begins where the one before has ended
		}
	}
	forget(ctx, t, shared.dr, j.ns)
	forget(ctx, t, shared.prod, j.ns)
}

func (j journal) deploy(tag string, more ...string) []string {
	return append([]string{"apply", "--repo", j.repo.URL, "--path", ".", "--tag", tag}, more...)
}

// firstDeploy: the vault has nothing of the application, so that the claims begin empty.
func (j journal) firstDeploy(t *testing.T) {
	ctx := t.Context()
	lockstep(ctx, t, shared.prod, j.deploy(tag)...)
	for claim, pod := range writers {
		awaitPopulation(ctx, t, shared.prod, j.ns, claim, "Populated", "")
		if left := write(ctx, t, shared.prod, j.ns, pod, `busybox ls -A | busybox grep -v lost+found || true`); left != "" {
			t.Errorf("on the first deploy the volume of %s holds %q", claim, left)
		}
		write(ctx, t, shared.prod, j.ns, pod, `echo "dear `+claim+`" >today; busybox sync`)
	}
	lockstep(ctx, t, shared.prod, "backup", "diary", "-n", j.ns)
}

// unknown: while the vault cannot be asked, for whatever reason, the claims wait.
func (j journal) unknown(t *testing.T) {
	ctx := t.Context()
	stray := filepath.Join(t.TempDir(), "stray.key")
	lockstep(ctx, t, nil, "vault", "init", "file://"+t.TempDir()+"/v", "--key-file", stray)
	identity, err := os.ReadFile(stray)
	must(t, err)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "stray-key"}, Data: map[string][]byte{"identity": identity},
	}
	must(t, shared.dr.Create(ctx, secret))
	vault := &v1alpha1.Vault{}
	must(t, shared.dr.Get(ctx, client.ObjectKey{Name: "primary"}, vault))
	good := vault.Spec.DeepCopy()
	defer func() { // what comes next is for the claims to do by themselves
		setVault(ctx, t, shared.dr, *good)
		must(t, shared.dr.Delete(ctx, secret))
	}()
	for i, trouble := range []struct {
		says   string
		break_ func(*v1alpha1.VaultSpec)
	}{
		{":9", func(s *v1alpha1.VaultSpec) { s.S3.Endpoint = "http://" + shared.lab.Address + ":9" }},
		{`there is no secret "absent"`, func(s *v1alpha1.VaultSpec) { s.KeySecretRef.Name = "absent" }},
		{"key", func(s *v1alpha1.VaultSpec) { s.KeySecretRef.Name = "stray-key" }},
		{"no vault", func(s *v1alpha1.VaultSpec) { s.S3.Prefix = "mistyped" }},
	} {
		broken := good.DeepCopy()
		trouble.break_(broken)
		setVault(ctx, t, shared.dr, *broken)
		if i == 0 {
			if _, err := shared.lab.Lockstep(ctx, shared.dr, j.deploy(tag, "--timeout", "5s")...); err == nil {
				t.Error("the application became healthy while the vault was unknown")
			}
		}
		awaitPopulation(ctx, t, shared.dr, j.ns, "diary", "Unknown: ", trouble.says)
	}
	for name := range writers {
		claim := &corev1.PersistentVolumeClaim{}
		must(t, shared.dr.Get(ctx, client.ObjectKey{Namespace: j.ns, Name: name}, claim))
		if name != "loose" && (claim.Status.Phase != corev1.ClaimPending || claim.Spec.VolumeName != "") {
			t.Errorf("while the vault is unknown the claim %s is %s with volume %q", name, claim.Status.Phase, claim.Spec.VolumeName)
		}
	}
}

// setVault leads the Vault of a cluster elsewhere.
func setVault(ctx context.Context, t *testing.T, c *lab.Cluster, spec v1alpha1.VaultSpec) {
	t.Helper()
	vault := &v1alpha1.Vault{}
	must(t, c.Get(ctx, client.ObjectKey{Name: "primary"}, vault))
	base := vault.DeepCopy()
	vault.Spec = spec
	must(t, c.Patch(ctx, vault, client.MergeFrom(base)))
}

// found: when the vault answers, each claim gets its own data, and one whose provisioner was faster says that it has none.
func (j journal) found(t *testing.T) {
	ctx := t.Context()
	for claim, pod := range writers {
		says, want := "Populated", "dear "+claim
		if claim == "loose" {
			says, want = "Bypassed", ""
		}
		awaitPopulation(ctx, t, shared.dr, j.ns, claim, says, "")
		if got := write(ctx, t, shared.dr, j.ns, pod, `busybox cat today 2>/dev/null || true`); got != want {
			t.Errorf("the volume of %s on the fresh cluster holds %q, want %q", claim, got, want)
		}
	}
	warned, err := shared.dr.Kubectl(ctx, "get", "events", "-n", j.ns, "--field-selector", "reason=Bypassed,type=Warning,involvedObject.name=loose", "-o", "name")
	must(t, err)
	if strings.TrimSpace(warned) == "" {
		t.Error("nobody was warned of the empty volume")
	}
	nothingLeft(ctx, t, shared.dr, j.ns)
	boundVolumesHaveTheirPolicyBack(ctx, t, shared.dr, j.ns)
	// The manifest is what it was: deploying it again over the filled claims is taken.
	lockstep(ctx, t, shared.dr, j.deploy(tag)...)
}

// undecided: the commit that is being deployed is another than the one whose data the vault holds, though that still runs. One claim
// then takes the data in the way that the message says, and the other begins empty.
func (j journal) undecided(t *testing.T) {
	ctx := t.Context()
	must(t, j.repo.Commit(ctx, "Change", func(dir string) error {
		more := strings.ReplaceAll("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more, namespace: NAME}\n", "NAME", j.ns)
		return os.WriteFile(filepath.Join(dir, "more.yaml"), []byte(more), 0o644)
	}))
	must(t, j.repo.Tag(ctx, "v2.0.0"))
	j.drop(ctx, t, "diary")
	if _, err := shared.lab.Lockstep(ctx, shared.dr, j.deploy("v2.0.0", "--timeout", "5s")...); err == nil {
		t.Error("the application became healthy without its claim")
	}
	said := awaitPopulation(ctx, t, shared.dr, j.ns, "diary", "Undecided: ", "whose schema may be another")
	j.drop(ctx, t, "data-pages-1")
	awaitPopulation(ctx, t, shared.dr, j.ns, "data-pages-1", "Undecided: ", "")

	_, err := shared.dr.Kubectl(ctx, "annotate", "pvc", "-n", j.ns, "data-pages-1", v1alpha1.AnnotationStartEmpty+"=a new page")
	must(t, err)
	_, advice, _ := strings.Cut(said, "`")
	advice, _, _ = strings.Cut(advice, "`")
	lockstep(ctx, t, shared.dr, strings.Fields(advice)[1:]...)
	for claim, want := range map[string]string{"diary": "dear diary", "data-pages-1": ""} {
		awaitPopulation(ctx, t, shared.dr, j.ns, claim, "Populated", "")
		if got := write(ctx, t, shared.dr, j.ns, writers[claim], `busybox cat today 2>/dev/null || true`); got != want {
			t.Errorf("the volume of %s holds %q, want %q", claim, got, want)
		}
	}
}

// drop deletes a claim and its pod.
func (j journal) drop(ctx context.Context, t *testing.T, claim string) {
	t.Helper()
	before := &corev1.PersistentVolumeClaim{}
	must(t, shared.dr.Get(ctx, client.ObjectKey{Namespace: j.ns, Name: claim}, before))
	_, err := shared.dr.Kubectl(ctx, "delete", "-n", j.ns, "--wait=false", "pvc/"+claim, "pod/"+writers[claim])
	must(t, err)
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		now := &corev1.PersistentVolumeClaim{}
		err := shared.dr.Get(ctx, client.ObjectKeyFromObject(before), now)
		return now.UID != before.UID, client.IgnoreNotFound(err)
	}))
}

// restored: the Restore of a commit fills such claims itself, each once, also the one of the class that would be faster; and who
// applies the manifest afterwards finds nothing to fight over.
func (j journal) restored(t *testing.T) {
	ctx := t.Context()
	forget(ctx, t, shared.dr, j.ns)
	lockstep(ctx, t, shared.dr, "restore", "--tag", tag, "--repo", j.repo.URL, "--path", ".", "--vault", "primary")
	filled := map[string]string{}
	for claim, pod := range writers {
		awaitPopulation(ctx, t, shared.dr, j.ns, claim, "Populated", "")
		if got := write(ctx, t, shared.dr, j.ns, pod, `busybox cat today`); got != "dear "+claim {
			t.Errorf("the volume of %s holds %q", claim, got)
		}
		filled[claim] = j.volumeOf(ctx, t, claim)
	}
	out, err := shared.dr.Kubectl(ctx, "get", "restores", "-n", j.ns, "-o", "name")
	must(t, err)
	if strings.TrimSpace(out) != "" {
		t.Errorf("claims of the commit were restored apart from it: %s", out)
	}
	nothingLeft(ctx, t, shared.dr, j.ns)
	_, err = shared.dr.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", filepath.Join(j.dir, "diary.yaml"))
	must(t, err)
	lockstep(ctx, t, shared.dr, j.deploy(tag)...)
	for claim, volume := range filled {
		if got := j.volumeOf(ctx, t, claim); got != volume {
			t.Errorf("after another apply claim %s has volume %q, not %q", claim, got, volume)
		}
	}
}

func (j journal) volumeOf(ctx context.Context, t *testing.T, claim string) string {
	t.Helper()
	live := &corev1.PersistentVolumeClaim{}
	must(t, shared.dr.Get(ctx, client.ObjectKey{Namespace: j.ns, Name: claim}, live))
	return live.Spec.VolumeName
}

// engine: an Application of Argo CD names the commit that the policy does not. It is another one than the data's, and only Git can tell
// that it deploys the same.
func (j journal) engine(t *testing.T) {
	ctx := t.Context()
	must(t, j.repo.Commit(ctx, "Change back", func(dir string) error { return os.Remove(filepath.Join(dir, "more.yaml")) }))
	head, err := exec.CommandContext(ctx, "git", "-C", j.dir, "rev-parse", "HEAD").Output()
	must(t, err)
	definitions := filepath.Join("..", "standin", "crd", "argocd.yaml")
	kubectl(ctx, t, shared.dr, "apply", "--server-side", "-f", definitions)
	kubectl(ctx, t, shared.dr, "wait", "--for=condition=Established", "--timeout=60s", "-f", definitions)
	defer kubectl(context.WithoutCancel(ctx), t, shared.dr, "delete", "-f", definitions)
	kubectl(ctx, t, shared.dr, "annotate", "protectionpolicy", "-n", j.ns, "diary", "argocd.argoproj.io/tracking-id=diary:lockstep.dev/ProtectionPolicy:"+j.ns+"/diary",
		v1alpha1.AnnotationRepository+"-", v1alpha1.AnnotationPath+"-", v1alpha1.AnnotationRevision+"-", v1alpha1.AnnotationTree+"-")
	application := strings.NewReplacer("NAME", j.ns, "ORIGIN", j.repo.URL).Replace(`apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: diary, namespace: NAME}
spec:
  project: default
  destination: {server: https://kubernetes.default.svc}
  source: {repoURL: "ORIGIN", path: ., targetRevision: main}
`)
	create(ctx, t, shared.dr, application)
	j.drop(ctx, t, "data-pages-0")
	awaitPopulation(ctx, t, shared.dr, j.ns, "data-pages-0", "Unknown: ", "has not synced a commit yet")
	at := strings.TrimSpace(string(head))
	kubectl(ctx, t, shared.dr, "patch", "applications.argoproj.io", "diary", "-n", j.ns, "--type=merge", "-p", fmt.Sprintf(`{"status": {"operationState": {
		"operation": {"sync": {"revision": %q}}, "phase": "Running", "startedAt": %q,
		"syncResult": {"revision": %q, "source": {"repoURL": %q}}}}}`, at, time.Now().UTC().Format(time.RFC3339), at, j.repo.URL))
	awaitPopulation(ctx, t, shared.dr, j.ns, "data-pages-0", "Populated", "")
	if got := write(ctx, t, shared.dr, j.ns, "pages-0", `busybox cat today`); got != "dear data-pages-0" {
		t.Errorf("the volume holds %q", got)
	}
}

// write runs a script in the volume of one of the diary's pods when it runs, and returns what it prints.
func write(ctx context.Context, t *testing.T, c *lab.Cluster, namespace, pod, script string) string {
	t.Helper()
	_, err := c.PodReady(ctx, namespace, pod)
	must(t, err)
	out, err := c.Exec(ctx, namespace, pod, "busybox", "sh", "-ec", "cd /data; "+script)
	must(t, err)
	return strings.TrimSpace(out)
}

// awaitPopulation waits until a claim says where it stands, in words that begin so and mention something, and returns them.
func awaitPopulation(ctx context.Context, t *testing.T, c *lab.Cluster, namespace, name, begins, mentions string) (says string) {
	t.Helper()
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		claim := &metav1.PartialObjectMetadata{}
		claim.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
		if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, claim); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		says = claim.Annotations[v1alpha1.AnnotationPopulation]
		return strings.HasPrefix(says, begins) && strings.Contains(says, mentions), nil
	})
	if err != nil {
		out, _ := c.Kubectl(ctx, "get", "pvc,pods,restores,events", "-n", namespace)
		t.Fatalf("claim %s does not say %s…%s but %q: %v\n%s", name, begins, mentions, says, err, out)
	}
	return says
}

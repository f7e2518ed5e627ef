package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// TestRollback brings an earlier release back in the cluster where a newer one runs with newer data: the earlier data is back, and the
// newer is in the volumes that were set aside, to the last byte.
func TestRollback(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "rollback"
	repo, saved := newNotes(ctx, t, ns)
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)

	must(t, repo.Commit(ctx, "Next", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "next.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: next, namespace: "+ns+"}\n"), 0o644)
	}))
	must(t, repo.Tag(ctx, "v2.0.0"))
	lockstep(ctx, t, shared.prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", "v2.0.0")
	for _, pod := range notesPods(ctx, t, shared.prod, ns) {
		_, err := shared.prod.Exec(ctx, ns, pod, "busybox", "sh", "-ec", "cd /data; echo newer >a/b/7; echo more >a/c; busybox sync")
		must(t, err)
	}
	newer := strings.Fields(notesDigest(ctx, t, shared.prod, ns))
	claims := claimsOf(t, shared.prod, ns)

	args := []string{"rollback", ns + "/notes", "--tag", tag, "--repo", repo.URL, "--path", "."}
	plan := lockstep(ctx, t, shared.prod, append(args, "--dry-run")...)
	for _, want := range []string{"StatefulSet rollback/notes is scaled from 1 replica to none", "claim rollback/drafts is replaced"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the dry run does not say %q:\n%s", want, plan)
		}
	}
	refused(ctx, t, shared.prod, 5, "nothing was changed", args...)
	out := lockstep(ctx, t, shared.prod, append(args, "--yes")...)
	if got := notesDigest(ctx, t, shared.prod, ns); got != saved {
		t.Errorf("the data is not that of %s: %s, want %s", tag, got, saved)
	}
	nothingLeft(ctx, t, shared.prod, ns)
	boundVolumesHaveTheirPolicyBack(ctx, t, shared.prod, ns)

	var kept corev1.PersistentVolumeList
	must(t, shared.prod.List(ctx, &kept, client.HasLabels{v1alpha1.LabelSetAside}))
	if len(kept.Items) != len(claims) {
		t.Fatalf("%d volumes are kept, want %d", len(kept.Items), len(claims))
	}
	for i, claim := range []string{"data-notes-0", "drafts"} {
		pv := keptOf(t, kept.Items, ns+"/"+claim)
		if !strings.HasSuffix(claims[claim], " "+pv.Name) || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || !strings.Contains(out, pv.Name) {
			t.Errorf("of claim %s, volume %s is kept with policy %s; it had %s; the command said:\n%s", claim, pv.Name, pv.Spec.PersistentVolumeReclaimPolicy, claims[claim], out)
		}
		if got := digestOf(ctx, t, shared.prod, ns, pv); got != newer[i] {
			t.Errorf("volume %s of claim %s holds %s, want the newer data %s", pv.Name, claim, got, newer[i])
		}
	}
	forget(ctx, t, shared.prod, ns)
	for _, pv := range kept.Items {
		_, err := shared.prod.Kubectl(ctx, "patch", "pv", pv.Name, "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
		must(t, err)
	}
	must(t, lab.Eventually(ctx, time.Minute, func(ctx context.Context) (bool, error) {
		err := shared.prod.List(ctx, &kept, client.HasLabels{v1alpha1.LabelSetAside})
		return len(kept.Items) == 0, err
	}))
}

func keptOf(t *testing.T, all []corev1.PersistentVolume, claim string) corev1.PersistentVolume {
	t.Helper()
	for _, pv := range all {
		if pv.Annotations[v1alpha1.AnnotationSetAsideClaim] == claim {
			return pv
		}
	}
	t.Fatalf("no volume of claim %s is kept", claim)
	return corev1.PersistentVolume{}
}

// digestOf gives a volume that is kept a claim of its own, as the documents say, and looks into it.
func digestOf(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string, pv corev1.PersistentVolume) string {
	t.Helper()
	name := "look-" + pv.Name
	_, err := c.Kubectl(ctx, "patch", "pv", pv.Name, "--type=merge", "-p", `{"spec":{"claimRef":{"namespace":"`+namespace+`","name":"`+name+`","uid":null,"resourceVersion":null}}}`)
	must(t, err)
	must(t, c.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			VolumeName: pv.Name, StorageClassName: &pv.Spec.StorageClassName, AccessModes: pv.Spec.AccessModes,
			Resources: corev1.VolumeResourceRequirements{Requests: pv.Spec.Capacity},
		},
	}))
	must(t, c.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				Name: "look", Image: "lockstep.test/busybox:1", Command: []string{"busybox", "sleep", "1000000"},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}},
		},
	}))
	must(t, lab.Eventually(ctx, time.Minute, func(ctx context.Context) (bool, error) {
		pod := &corev1.Pod{}
		err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
		return pod.Status.Phase == corev1.PodRunning, err
	}))
	return digestOfNotes(ctx, t, c, namespace, name)
}

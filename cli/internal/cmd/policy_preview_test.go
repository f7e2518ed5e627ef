//go:build !windows

package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// claimOn makes a claim that is bound to a volume of its own.
func (c *testCluster) claimOn(t *testing.T, namespace, name string, source corev1.PersistentVolumeSource, edit func(*corev1.PersistentVolumeClaim)) {
	t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.create(t, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: namespace + "-" + name},
		Spec:       corev1.PersistentVolumeSpec{Capacity: size, AccessModes: modes, PersistentVolumeSource: source},
	})
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "db"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: new("fast"), VolumeName: namespace + "-" + name, Resources: corev1.VolumeResourceRequirements{Requests: size}},
	}
	edit(claim)
	c.create(t, claim)
	if claim.Spec.VolumeName != "" {
		claim.Status.Phase = corev1.ClaimBound
		c.setStatus(t, claim)
	}
}

func testPolicyPreview(t *testing.T, c *testCluster) {
	ns := c.namespace(t, "preview")
	c.run(t, "policy", "preview", "-n", ns).want(t, fault.Absent, "namespace preview has no ProtectionPolicy")
	nfs := corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nfs.example.com", Path: "/data"}}
	driver := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: "1"}}
	c.claimOn(t, ns, "files", nfs, func(*corev1.PersistentVolumeClaim) {})
	c.claimOn(t, ns, "cache", nfs, func(p *corev1.PersistentVolumeClaim) {
		p.Annotations = map[string]string{v1alpha1.AnnotationExclude: "made again"}
	})
	c.claimOn(t, ns, "other", nfs, func(p *corev1.PersistentVolumeClaim) { p.Labels = nil })
	c.create(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "web", Image: "web"}},
		Volumes: []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "files"}}}},
	}})
	shop := policy(ns, "shop")
	shop.Spec.Volumes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	c.create(t, shop)
	preview := func(code fault.Code, args ...string) []string {
		t.Helper()
		o := c.run(t, append([]string{"policy", "preview", "-n", ns, "-o", "json"}, args...)...)
		o.want(t, code)
		var got policyPreview
		if err := json.Unmarshal([]byte(o.out), &got); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range got.Claims {
			out = append(out, fmt.Sprintf("%s %v %s %s %v", p.Claim, p.Taken, p.Source, p.SnapshotClass, p.UsedBy))
		}
		return out
	}

	// The only policy of the namespace, which cannot save a claim.
	c.run(t, "policy", "preview", "-n", ns).want(t, fault.Failed, "FAILS", `with consistency: Fuzzy in the policy "shop"`, "the next point would fail for 1 claim",
		"annotation lockstep.dev/exclude: made again", `it has no label "app"`)

	// A file is what is asked about: with Fuzzy, the volume is read.
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const fuzzy = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: new}
spec: {vaults: [primary], consistency: Fuzzy, volumes: {selector: {matchLabels: {app: db}}}}
`
	write(fuzzy)
	want := []string{"cache false   []", "files true Volume  [pod/web]", "other false   []"}
	if diff := cmp.Diff(want, preview(fault.Done, "-f", file)); diff != "" {
		t.Error(diff)
	}

	// A driver without a class, and a claim that is not bound.
	c.claimOn(t, ns, "database", driver, func(*corev1.PersistentVolumeClaim) {})
	c.claimOn(t, ns, "pending", nfs, func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "" })
	c.run(t, "policy", "preview", "-n", ns, "-f", file).want(t, fault.Failed,
		`no VolumeSnapshotClass for the driver "csi.example.com" of claim "database"`, `claim "pending" is not bound but Pending`, "the next point would fail for 2 claims")

	// With one.
	definitions := outputOf(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8")
	if _, err := envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{Paths: []string{filepath.Join(definitions, "config", "crd")}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
	c.create(t, &snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: "snaps"}, Driver: "csi.example.com", DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete})
	want = []string{"cache false   []", "database true Snapshot snaps []", "files true Volume  [pod/web]", "other false   []", "pending true   []"}
	if diff := cmp.Diff(want, preview(fault.Failed, "-f", file)); diff != "" {
		t.Error(diff)
	}

	for text, says := range map[string]string{
		"kind: ConfigMap\napiVersion: v1\n": "has no ProtectionPolicy",
		fuzzy + "---\n" + fuzzy:             "has several ProtectionPolicies",
		"apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nspec: {vault: primary}\n": "vault",
		"a: [": "reading ",
	} {
		write(text)
		c.run(t, "policy", "preview", "-n", ns, "-f", file).want(t, fault.Usage, says)
	}
	write("apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nmetadata: {name: new}\nspec: {vaults: [primary], volumes: {selector: {matchLabels: {app: none}}}}\n")
	c.run(t, "policy", "preview", "-n", ns, "-f", file).want(t, fault.Absent, "takes no claim of namespace preview")
	c.run(t, "policy", "preview", "none", "-n", ns).want(t, fault.Absent, "none")
	c.run(t, "policy", "preview", "shop", "-n", ns, "-f", file).want(t, fault.Usage, "not both")
	c.create(t, policy(ns, "second"))
	c.run(t, "policy", "preview", "-n", ns).want(t, fault.Usage, "2 ProtectionPolicies: second, shop")

	// Nothing was changed by looking.
	var all v1alpha1.ProtectionPolicyList
	if err := c.List(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	for _, p := range all.Items {
		if p.Name == "new" {
			t.Error("the policy of the file was made")
		}
	}
}

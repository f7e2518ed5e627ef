package backup

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAliasOf(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	for _, tt := range []struct {
		name    string
		spec    corev1.PersistentVolumeSpec
		refuses string
	}{
		{"nfs", corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/p"}}}, ""},
		{"local", corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/p"}}}, ""},
		{"csi", corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d"}}}, "neither nfs nor local nor hostPath"},
		{"iscsi", corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}}, "neither nfs nor local nor hostPath"},
		{"a device", corev1.PersistentVolumeSpec{VolumeMode: &block,
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/p"}}}, "is a device"},
	} {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "data", Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "x"}}, Spec: tt.spec}
		before := pv.DeepCopy()
		alias, err := aliasOf(pv, "ls-1-0")
		switch {
		case tt.refuses != "" && (err == nil || !strings.Contains(err.Error(), tt.refuses)):
			t.Errorf("%s: %v, want a refusal with %q", tt.name, err, tt.refuses)
		case tt.refuses == "" && (err != nil || alias.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || len(alias.Annotations) > 0):
			t.Errorf("%s: %+v, %v", tt.name, alias, err)
		case tt.name == "nfs" && (!alias.Spec.NFS.ReadOnly || before.Spec.NFS.ReadOnly != pv.Spec.NFS.ReadOnly):
			t.Errorf("nfs: %+v from %+v", alias.Spec.NFS, pv.Spec.NFS)
		}
	}
}

// A directory that is not there is an error, and not an empty volume.
func TestAliasMakesNoDirectory(t *testing.T) {
	for _, given := range []*corev1.HostPathType{nil, new(corev1.HostPathUnset), new(corev1.HostPathDirectoryOrCreate), new(corev1.HostPathDirectory)} {
		pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: "/p", Type: given}}}}
		alias, err := aliasOf(pv, "ls-1-0")
		if err != nil || *alias.Spec.HostPath.Type != corev1.HostPathDirectory || pv.Spec.HostPath.Type != given {
			t.Errorf("%v: %+v, %v", given, alias, err)
		}
	}
}

func TestNodeOf(t *testing.T) {
	pod := func(node, claim string, phase corev1.PodPhase) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{Phase: phase}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}}
	}
	for _, tt := range []struct {
		name string
		pods []corev1.Pod
		want string
		says string
	}{
		{"two pods of one node", []corev1.Pod{pod("a", "data", corev1.PodRunning), pod("a", "data", corev1.PodRunning)}, "a", ""},
		{"another claim's pod", []corev1.Pod{pod("a", "other", corev1.PodRunning)}, "", "no pod"},
		{"over", []corev1.Pod{pod("a", "data", corev1.PodSucceeded)}, "", "no pod"},
		{"not scheduled", []corev1.Pod{pod("", "data", corev1.PodPending)}, "", "no pod"},
		{"two nodes", []corev1.Pod{pod("b", "data", corev1.PodRunning), pod("a", "data", corev1.PodRunning)}, "", `["a" "b"]`},
	} {
		got, err := nodeOf("data", tt.pods)
		if got != tt.want || (tt.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

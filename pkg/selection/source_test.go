package selection

import (
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func TestClassOf(t *testing.T) {
	class := func(name, driver, isDefault string) snapshotv1.VolumeSnapshotClass {
		return snapshotv1.VolumeSnapshotClass{Driver: driver, ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			"snapshot.storage.kubernetes.io/is-default-class": isDefault}}}
	}
	all := []snapshotv1.VolumeSnapshotClass{
		class("b", "csi", ""), class("a", "csi", "false"), class("z", "other", "true"), class("d", "two", "true"), class("c", "two", "true"), class("a2", "two", ""),
	}
	for driver, want := range map[string]string{"csi": "a", "other": "z", "two": "c", "none": ""} {
		if got := ClassOf(driver, all); got != want {
			t.Errorf("%s: %q, want %q", driver, got, want)
		}
	}
}

func TestReady(t *testing.T) {
	for _, c := range []struct {
		claim corev1.PersistentVolumeClaim
		want  string
	}{
		{corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}, ""},
		{corev1.PersistentVolumeClaim{}, "is not bound but Pending"},
		{corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost}}, "is not bound but Lost"},
		{corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}, "is being deleted"},
	} {
		if err := Ready(&c.claim); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestSource(t *testing.T) {
	driver := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi"}}
	nfs := corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/p"}}
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/p"}}
	classes := []snapshotv1.VolumeSnapshotClass{{ObjectMeta: metav1.ObjectMeta{Name: "snaps"}, Driver: "csi"}}
	const fuzzy = v1alpha1.ConsistencyFuzzy
	for name, c := range map[string]struct {
		consistency v1alpha1.Consistency
		volume      corev1.PersistentVolumeSource
		mode        corev1.PersistentVolumeMode
		storage     string
		classes     []snapshotv1.VolumeSnapshotClass
		source      v1alpha1.CaptureSource
		class       string
		refuses     string
	}{
		"a snapshot":                       {"", driver, "", "fast", classes, v1alpha1.SourceSnapshot, "snaps", ""},
		"a snapshot though Fuzzy may be":   {fuzzy, driver, "", "fast", classes, v1alpha1.SourceSnapshot, "snaps", ""},
		"no snapshot class":                {"", driver, "", "fast", nil, "", "", `no VolumeSnapshotClass for the driver "csi" of claim "data"`},
		"a driver's volume is not aliased": {fuzzy, driver, "", "fast", nil, "", "", "no VolumeSnapshotClass"},
		"no storage class":                 {"", driver, "", "", classes, "", "", "has no StorageClass"},
		"nfs":                              {"", nfs, "", "fast", classes, "", "", "with consistency: Fuzzy"},
		"nfs read in use":                  {fuzzy, nfs, "", "", nil, v1alpha1.SourceVolume, "", ""},
		"a device in use":                  {fuzzy, local, corev1.PersistentVolumeBlock, "", nil, "", "", "is a device"},
		"other storage":                    {fuzzy, corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}, "", "", nil, "", "", "neither nfs nor local nor hostPath"},
	} {
		p := &v1alpha1.ProtectionPolicy{Spec: v1alpha1.ProtectionPolicySpec{Consistency: c.consistency}}
		data := claim("shop", "data", nil)
		data.Spec.StorageClassName = &c.storage
		pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: c.volume, VolumeMode: &c.mode}}
		source, class, err := Source(p, &data, pv, c.classes)
		switch {
		case c.refuses != "" && (err == nil || !strings.Contains(err.Error(), c.refuses)):
			t.Errorf("%s: %v, want a refusal with %q", name, err, c.refuses)
		case c.refuses == "" && (err != nil || source != c.source || class != c.class):
			t.Errorf("%s: %s, %q, %v", name, source, class, err)
		}
	}
}

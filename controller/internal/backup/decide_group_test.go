package backup

import (
	"strings"
	"testing"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func TestGroupLabels(t *testing.T) {
	claim := func(name, app string) corev1.PersistentVolumeClaim {
		return corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}}}
	}
	data, log, scratch := claim("data", "db"), claim("log", "db"), claim("scratch", "tmp")
	for name, tt := range map[string]struct {
		selector *metav1.LabelSelector
		taken    []corev1.PersistentVolumeClaim
		want     int
		says     string
	}{
		"all of the namespace":      {nil, []corev1.PersistentVolumeClaim{data, log, scratch}, 0, ""},
		"by a label":                {&metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, []corev1.PersistentVolumeClaim{data, log}, 1, ""},
		"one is left out":           {nil, []corev1.PersistentVolumeClaim{data, log}, 0, `would have claim "scratch", too`},
		"one of a label":            {&metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, []corev1.PersistentVolumeClaim{data}, 0, `would have claim "log", too`},
		"by what is not looked at":  {&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Exists"}}}, []corev1.PersistentVolumeClaim{data}, 0, "matchExpressions"},
		"an empty selector is none": {&metav1.LabelSelector{}, []corev1.PersistentVolumeClaim{data, log, scratch}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pol := &v1alpha1.ProtectionPolicy{Spec: v1alpha1.ProtectionPolicySpec{Volumes: v1alpha1.VolumeSelection{Selector: tt.selector}}}
			got, err := groupLabels(pol, tt.taken, []corev1.PersistentVolumeClaim{data, log, scratch})
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) || len(got) != tt.want {
				t.Errorf("%v, %v, want %d labels, %q", got, err, tt.want, tt.says)
			}
		})
	}
}

func TestGroupDriverAndClass(t *testing.T) {
	csi := func(driver string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver}}}}
	}
	claims := []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}}
	for name, tt := range map[string]struct {
		a, b *corev1.PersistentVolume
		says string
	}{
		"one driver":  {csi("x"), csi("x"), ""},
		"two drivers": {csi("x"), csi("y"), `is of the driver "x" and that of claim "b" of "y"`},
		"no driver":   {csi("x"), &corev1.PersistentVolume{}, `claim "b" does not come from a CSI driver`},
	} {
		got, err := groupDriver(claims, map[string]*corev1.PersistentVolume{"a": tt.a, "b": tt.b})
		if (err == nil) != (tt.says == "") || err == nil && got != "x" || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	class := func(name, driver string, policy snapshotv1.DeletionPolicy, standard bool) groupv1.VolumeGroupSnapshotClass {
		c := groupv1.VolumeGroupSnapshotClass{Driver: driver, DeletionPolicy: policy}
		if c.Name = name; standard {
			c.Annotations = map[string]string{defaultGroupClass: "true"}
		}
		return c
	}
	keep, drop := snapshotv1.VolumeSnapshotContentRetain, snapshotv1.VolumeSnapshotContentDelete
	for name, tt := range map[string]struct {
		classes []groupv1.VolumeGroupSnapshotClass
		want    string
		says    string
	}{
		"none":              {nil, "", `no VolumeGroupSnapshotClass for the driver "x"`},
		"another driver's":  {[]groupv1.VolumeGroupSnapshotClass{class("a", "y", drop, true)}, "", "no VolumeGroupSnapshotClass"},
		"the first by name": {[]groupv1.VolumeGroupSnapshotClass{class("b", "x", drop, false), class("a", "x", drop, false)}, "a", ""},
		"the default":       {[]groupv1.VolumeGroupSnapshotClass{class("b", "x", drop, true), class("a", "x", drop, false)}, "b", ""},
		"one that keeps":    {[]groupv1.VolumeGroupSnapshotClass{class("a", "x", keep, true)}, "", `"a" keeps every snapshot`},
		"not the keeping":   {[]groupv1.VolumeGroupSnapshotClass{class("a", "x", keep, true), class("b", "x", drop, false)}, "b", ""},
	} {
		got, err := groupClass("x", tt.classes)
		if got != tt.want || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// What a volume of a group does next is what is not that of one by itself.
func TestDecideGrouped(t *testing.T) {
	handle := "h"
	good := &snapshotv1.VolumeSnapshot{Status: &snapshotv1.VolumeSnapshotStatus{ReadyToUse: new(true)}}
	content := &snapshotv1.VolumeSnapshotContent{Status: &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle}}
	content.Spec.DeletionPolicy = snapshotv1.VolumeSnapshotContentDelete
	begun, whole := &groupv1.VolumeGroupSnapshot{}, &groupv1.VolumeGroupSnapshot{Status: &groupv1.VolumeGroupSnapshotStatus{ReadyToUse: new(true)}}
	for name, tt := range map[string]struct {
		v    work
		want step
	}{
		"the member is not there yet":    {work{group: begun}, stepWait},
		"the member never came":          {work{group: whole}, stepFail},
		"the group was deleted":          {work{}, stepFail},
		"the member has no content yet":  {work{group: whole, snapshot: good}, stepWait},
		"it is exposed as it is":         {work{group: whole, snapshot: good, content: content}, stepExpose},
		"the member stays":               {work{group: whole, snapshot: good, content: content, exposed: content, exposedSnapshot: good}, stepClaim},
		"the group is gone, the rest is": {work{exposed: content, exposedSnapshot: good}, stepClaim},
	} {
		tt.v.grouped, tt.v.capture = true, &v1alpha1.VolumeCapture{Claim: "a", Source: v1alpha1.SourceSnapshot}
		if got := decideSnapshot(&tt.v); got.step != tt.want {
			t.Errorf("%s: %+v, want %s", name, got, tt.want)
		}
	}
}

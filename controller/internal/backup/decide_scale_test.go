package backup

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

func TestDecideAbsence(t *testing.T) {
	at := metav1.NowMicro()
	due, scaled, back := v1alpha1.ScaledWorkload{ScaleBackDue: true}, v1alpha1.ScaledWorkload{ScaleBackDue: true, ScaledAt: &at}, v1alpha1.ScaledWorkload{ScaledAt: &at}
	state := func(gone, cut bool, w ...v1alpha1.ScaledWorkload) *v1alpha1.Scaling {
		s := &v1alpha1.Scaling{Timeout: metav1.Duration{Duration: time.Minute}, Workloads: w}
		if gone {
			s.GoneAt = &at
		}
		if cut {
			s.CutAt = &at
		}
		return s
	}
	for name, tt := range map[string]struct {
		s              *v1alpha1.Scaling
		requested, cut bool
		age            time.Duration
		want           absence
		says           string
	}{
		"nothing is asked for":                      {nil, false, false, time.Hour, absenceNone, ""},
		"nothing is scaled yet":                     {state(false, false, due, due), false, false, 0, absenceScale, ""},
		"one of two is":                             {state(false, false, scaled, due), false, false, 0, absenceScale, ""},
		"both are":                                  {state(false, false, scaled, scaled), false, false, 0, absenceAwait, ""},
		"there is no workload":                      {state(false, false), false, false, 0, absenceAwait, ""},
		"a snapshot came first":                     {state(false, false, scaled), true, false, 0, absenceFailed, "before everything was scaled to zero"},
		"all are away":                              {state(true, false, scaled), false, false, 0, absenceHeld, ""},
		"snapshots are asked for":                   {state(true, false, scaled), true, false, 0, absenceHeld, ""},
		"snapshots are taken":                       {state(true, false, scaled), true, true, 0, absenceCheck, ""},
		"nothing has run":                           {state(true, true, scaled), true, true, 0, absenceEnd, ""},
		"one is back":                               {state(true, true, scaled, back), true, true, 0, absenceEnd, ""},
		"all are back":                              {state(true, true, back, back), true, true, 0, absenceNone, ""},
		"pods do not go":                            {state(false, false, scaled), false, false, 2 * time.Minute, absenceFailed, "not taken within 1m"},
		"snapshots are slow":                        {state(true, false, scaled), true, false, 2 * time.Minute, absenceFailed, "not taken within 1m"},
		"what is cut is scaled back, however late":  {state(true, true, scaled), true, true, time.Hour, absenceEnd, ""},
		"snapshots came in time, nobody has looked": {state(true, false, scaled), true, true, 2 * time.Minute, absenceFailed, "not taken"},
	} {
		t.Run(name, func(t *testing.T) {
			got, says := decideAbsence(tt.s, tt.requested, tt.cut, tt.age)
			if got != tt.want || !strings.Contains(says, tt.says) {
				t.Errorf("%s %q, want %s %q", got, says, tt.want, tt.says)
			}
		})
	}
}

func TestToScale(t *testing.T) {
	key := func(kind, name string) object.Key {
		k := object.Key{Kind: kind, Namespace: "shop", Name: name}
		switch kind {
		case "Deployment", "StatefulSet", "ReplicaSet", "DaemonSet":
			k.Group = "apps"
		case "Job", "CronJob":
			k.Group = "batch"
		}
		return k
	}
	data := object.Name{Namespace: "shop", Name: "data"}
	of := func(kind, name string, replicas int32, by object.Key) plan.Consumer {
		return plan.Consumer{Key: key(kind, name), Claims: []object.Name{data}, By: by, Replicas: replicas}
	}
	none := object.Key{}
	for name, tt := range map[string]struct {
		all  []plan.Consumer
		want []object.Key
		says string
		ends bool // waiting does not help
	}{
		"nobody": {},
		"a Deployment with its pods": {all: []plan.Consumer{of("Pod", "a-1", 0, key("ReplicaSet", "a")), of("ReplicaSet", "a", 2, key("Deployment", "a")), of("Deployment", "a", 2, none)},
			want: []object.Key{key("Deployment", "a")}},
		"one that has no replicas now is watched": {all: []plan.Consumer{of("Deployment", "a", 0, none)}, want: []object.Key{key("Deployment", "a")}},
		"a StatefulSet and a ReplicaSet":          {all: []plan.Consumer{of("StatefulSet", "b", 1, none), of("ReplicaSet", "a", 1, none)}, want: []object.Key{key("ReplicaSet", "a"), key("StatefulSet", "b")}},
		"another claim's":                         {all: []plan.Consumer{{Key: key("Pod", "p"), Claims: []object.Name{{Namespace: "shop", Name: "other"}}}}},
		"a CronJob stays":                         {all: []plan.Consumer{of("CronJob", "c", 0, none)}},
		"a suspended Job":                         {all: []plan.Consumer{{Key: key("Job", "j"), Claims: []object.Name{data}, Suspended: true}}},
		"a Job that runs":                         {all: []plan.Consumer{of("Job", "j", 0, none)}, says: `mounts claim "data" and is not complete`},
		"a CronJob's Job": {all: []plan.Consumer{of("CronJob", "c", 0, none), of("Job", "j", 0, key("CronJob", "c")), of("Pod", "p", 0, key("Job", "j"))},
			says: "is not complete"},
		"a bare pod":  {all: []plan.Consumer{of("Pod", "p", 0, none)}, says: "only Deployments, StatefulSets and ReplicaSets", ends: true},
		"a DaemonSet": {all: []plan.Consumer{of("DaemonSet", "d", 0, none)}, says: "only Deployments, StatefulSets and ReplicaSets", ends: true},
		"an operator's StatefulSet": {all: []plan.Consumer{of("StatefulSet", "b", 1, object.Key{Group: "example.com", Kind: "Database", Namespace: "shop", Name: "b"})},
			says: "which would start it again", ends: true},
		"an operator's pod": {all: []plan.Consumer{of("Pod", "p", 0, object.Key{Group: "postgresql.cnpg.io", Kind: "Cluster", Namespace: "shop", Name: "b"})},
			says: "which would start it again", ends: true},
		"an operator's StatefulSet at zero": {all: []plan.Consumer{of("StatefulSet", "b", 0, object.Key{Group: "example.com", Kind: "Database", Namespace: "shop", Name: "b"})}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := toScale(map[object.Name]bool{data: true}, tt.all)
			if tt.says != "" {
				var lack *notReady
				if !errors.As(err, &lack) || !strings.Contains(err.Error(), tt.says) || lack.final != tt.ends || lack.reason != v1alpha1.ReasonScaleDownFailed {
					t.Fatalf("got %v, %v, want %q", got, err, tt.says)
				}
				return
			}
			if err != nil || len(got) != len(tt.want) {
				t.Fatalf("got %v, %v, want %v", got, err, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("got %v, want %v", got, tt.want)
				}
			}
		})
	}
}

// deployment is one with the UID u. Each of the managers says its replicas, besides Lockstep.
func deployment(replicas int64, mark string, managers ...string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"namespace": "shop", "name": "a", "uid": "u", "generation": int64(7)}, "spec": map[string]any{"replicas": replicas}}}
	if mark != "" {
		u.SetAnnotations(map[string]string{v1alpha1.AnnotationScaledBy: mark})
	}
	var fields []metav1.ManagedFieldsEntry
	for _, m := range append(managers, v1alpha1.FieldManager) {
		fields = append(fields, metav1.ManagedFieldsEntry{Manager: m, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{}}}`)})
	}
	u.SetManagedFields(append(fields, metav1.ManagedFieldsEntry{Manager: "other", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:paused":{}}}`)}))
	return u
}

func TestDecideDownAndBack(t *testing.T) {
	at := metav1.NowMicro()
	due := v1alpha1.ScaledWorkload{Kind: "Deployment", Name: "a", UID: "u", Replicas: 3, ScaleBackDue: true}
	scaled, replaced := due, due
	scaled.ScaledAt, replaced.UID = &at, "old"
	for name, tt := range map[string]struct {
		w        v1alpha1.ScaledWorkload
		live     *unstructured.Unstructured
		down     scaleStep
		downSays string
		back     scaleStep
		backSays string
		given    int32
	}{
		"as it was":                        {due, deployment(3, ""), scaleSet, "", scaleNote, "", 3},
		"scaled by a controller that died": {due, deployment(0, "p"), scaleNote, "", scaleSet, "", 3},
		"somebody scaled it first":         {due, deployment(5, "", "hpa"), scaleRenote, "", scaleNote, "was scaled to 5 meanwhile by hpa", 5},
		"somebody scaled it to 0 first":    {due, deployment(0, "", "kubectl"), scaleRenote, "", scaleNote, "", 0},
		"another point has it at zero":     {due, deployment(0, "q"), scaleFail, `by point "q"`, scaleNote, "", 3},
		"a rollback brought a mark":        {due, deployment(3, "q"), scaleSet, "", scaleNote, "", 3},
		"it is gone":                       {due, nil, scaleFail, "was deleted", scaleNote, "was deleted while", 0},
		"it is another":                    {replaced, deployment(3, ""), scaleFail, "was deleted", scaleNote, "was deleted while", 3},
		"at zero":                          {scaled, deployment(0, "p"), scaleNote, "", scaleSet, "", 3},
		"at zero, the mark lost":           {scaled, deployment(0, ""), scaleRenote, "", scaleSet, "", 3},
		"at zero, and others want it so":   {scaled, deployment(0, "p", "flux"), scaleNote, "", scaleSet, "was scaled to 0 by flux meanwhile, and stays so", 0},
		"scaled up by others":              {scaled, deployment(2, "p", "flux"), scaleRenote, "", scaleSet, "was scaled to 2 meanwhile by flux", 2},
		"back, and not yet in the status":  {scaled, deployment(3, ""), scaleSet, "", scaleNote, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			if do, says := decideDown(&tt.w, tt.live, "p"); do != tt.down || !strings.Contains(says, tt.downSays) {
				t.Errorf("down: %s %q, want %s %q", do, says, tt.down, tt.downSays)
			}
			do, says := decideBack(&tt.w, tt.live, "p")
			if do != tt.back || !strings.Contains(says, tt.backSays) || tt.backSays == "" && says != "" {
				t.Errorf("back: %s %q, want %s %q", do, says, tt.back, tt.backSays)
			}
			if tt.live != nil && do == scaleSet && given(&tt.w, tt.live) != tt.given {
				t.Errorf("it is given %d, want %d", given(&tt.w, tt.live), tt.given)
			}
		})
	}
}

func TestDisturbed(t *testing.T) {
	w := v1alpha1.ScaledWorkload{Kind: "Deployment", Name: "a", UID: "u", Replicas: 3, Generation: 7}
	changed := deployment(0, "p")
	changed.SetGeneration(8)
	for name, tt := range map[string]struct {
		live *unstructured.Unstructured
		want string
	}{
		"at zero all the while":   {deployment(0, "p"), ""},
		"scaled up":               {deployment(1, "p", "kustomize-controller"), "was scaled to 1 meanwhile by kustomize-controller"},
		"scaled up and down":      {changed, "it may have run meanwhile"},
		"deleted":                 {nil, "was deleted"},
		"scaled up, by who knows": {deployment(1, "p"), "was scaled to 1 meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := disturbed(&w, tt.live); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestUsersOf(t *testing.T) {
	now := time.Now()
	since := metav1.NewMicroTime(now)
	of := func(name, claim string, phase corev1.PodPhase, made time.Time) corev1.Pod {
		p := corev1.Pod{Status: corev1.PodStatus{Phase: phase}}
		p.Name, p.CreationTimestamp = name, metav1.NewTime(made.Truncate(time.Second))
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
		return p
	}
	pods := []corev1.Pod{
		of("runs", "data", corev1.PodRunning, now.Add(-time.Hour)), of("waits", "data", corev1.PodPending, now), of("other", "cache", corev1.PodRunning, now),
		of("old", "data", corev1.PodSucceeded, now.Add(-time.Minute)), of("came-and-went", "data", corev1.PodSucceeded, now.Add(2*time.Second)),
	}
	claims := map[string]bool{"data": true}
	if got := strings.Join(usersOf(claims, pods, nil), ","); got != `pod "runs",pod "waits"` {
		t.Errorf("now: %s", got)
	}
	if got := strings.Join(usersOf(claims, pods, &since), ","); got != `pod "came-and-went",pod "runs",pod "waits"` {
		t.Errorf("since: %s", got)
	}
}

func TestAbsent(t *testing.T) {
	claim := func(name, app, by string) corev1.PersistentVolumeClaim {
		c := corev1.PersistentVolumeClaim{}
		c.Name, c.Labels = name, map[string]string{"app": app}
		if by != "" {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: by, Name: "p", Controller: new(true)}}
		}
		return c
	}
	for name, tt := range map[string]struct {
		selector map[string]string
		claims   []corev1.PersistentVolumeClaim
		source   v1alpha1.CaptureSource
		want     string
		says     string
	}{
		"all":                     {nil, []corev1.PersistentVolumeClaim{claim("a", "db", ""), claim("b", "cache", "StatefulSet")}, v1alpha1.SourceSnapshot, "a b", ""},
		"some":                    {map[string]string{"app": "db"}, []corev1.PersistentVolumeClaim{claim("a", "db", ""), claim("b", "cache", "")}, v1alpha1.SourceSnapshot, "a", ""},
		"none":                    {map[string]string{"app": "no"}, []corev1.PersistentVolumeClaim{claim("a", "db", "")}, v1alpha1.SourceSnapshot, "", "chooses none"},
		"a pod's own":             {nil, []corev1.PersistentVolumeClaim{claim("a", "db", "Pod")}, v1alpha1.SourceSnapshot, "", `is pod "p"'s own`},
		"storage of no snapshots": {nil, []corev1.PersistentVolumeClaim{claim("a", "db", "")}, v1alpha1.SourceVolume, "", "knows no snapshots"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &v1alpha1.ScaleToZero{}
			if tt.selector != nil {
				s.Selector = &metav1.LabelSelector{MatchLabels: tt.selector}
			}
			volumes := make([]v1alpha1.VolumeCapture, len(tt.claims))
			for i := range volumes {
				volumes[i] = v1alpha1.VolumeCapture{Claim: tt.claims[i].Name, Source: tt.source}
			}
			err := absent(s, tt.claims, volumes)
			if tt.says != "" {
				var lack *notReady
				if !errors.As(err, &lack) || !lack.final || !strings.Contains(err.Error(), tt.says) {
					t.Fatalf("%v, want %q", err, tt.says)
				}
				return
			}
			var got []string
			for _, v := range volumes {
				if v.ScaleToZero {
					got = append(got, v.Claim)
				}
			}
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("%v, %v, want %s", got, err, tt.want)
			}
		})
	}
}

package backup

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Each case is a world in which a controller may wake up.
func TestDecideQuiesce(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) *metav1.MicroTime { return &metav1.MicroTime{Time: now.Add(-d)} }
	timeout := metav1.Duration{Duration: 30 * time.Second}
	todo := v1alpha1.Quiesced{PostHookDue: true, Timeout: timeout}
	held := v1alpha1.Quiesced{PostHookDue: true, Timeout: timeout, StartedAt: ago(time.Second), FrozenAt: ago(time.Second)}
	overdue := v1alpha1.Quiesced{PostHookDue: true, Timeout: timeout, StartedAt: ago(31 * time.Second), FrozenAt: ago(time.Second)}
	free := v1alpha1.Quiesced{Timeout: timeout, StartedAt: ago(2 * time.Second), FrozenAt: ago(2 * time.Second), ThawedAt: ago(time.Second)}
	undone := v1alpha1.Quiesced{Timeout: timeout}
	tired := v1alpha1.Quiesced{PostHookDue: true, Timeout: timeout, Attempt: attempts}
	type list = []v1alpha1.Quiesced
	for _, tt := range []struct {
		name           string
		all            list
		requested, cut bool
		want           stillness
	}{
		{"no hooks", nil, false, false, stillNone},
		{"no hooks, cut", nil, true, true, stillNone},
		{"nothing held", list{todo, todo}, false, false, stillFreeze},
		{"killed between two hooks", list{held, todo}, false, false, stillFreeze},
		{"killed once too often in a pre hook", list{held, tired}, false, false, stillFailed},
		{"all held", list{held, held}, false, false, stillHeld},
		{"waiting for snapshots", list{held, held}, true, false, stillHeld},
		{"snapshots take too long", list{held, overdue}, true, false, stillFailed},
		{"cut at the last moment: the watchdog knows", list{held, overdue}, true, true, stillThaw},
		{"cut", list{held, held}, true, true, stillThaw},
		{"killed between two post hooks", list{held, free}, true, true, stillThaw},
		{"all let go", list{free, free}, true, true, stillNone},
		{"a snapshot before the stillness", list{todo, held}, true, false, stillFailed},
		{"let go without a freeze", list{undone}, false, false, stillFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, message := decideQuiesce(tt.all, tt.requested, tt.cut, now)
			if got != tt.want || (got == stillFailed) != (message != "") {
				t.Errorf("got %q, %q, want %q", got, message, tt.want)
			}
		})
	}
}

func podOf(name string, phase corev1.PodPhase, running bool, claims ...string) corev1.Pod {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": "db"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, {Name: "side"}}},
		Status:     corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{Name: "main", ContainerID: "1"}, {Name: "side", ContainerID: "2"}}},
	}
	for i := range pod.Status.ContainerStatuses {
		if running {
			pod.Status.ContainerStatuses[i].State.Running = &corev1.ContainerStateRunning{}
		}
	}
	for _, c := range claims {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return pod
}

func TestTargets(t *testing.T) {
	hook := v1alpha1.QuiesceHook{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Pre: []string{"a"}, Post: []string{"b"}}
	going := podOf("going", corev1.PodRunning, true)
	going.DeletionTimestamp = &metav1.Time{}
	other := podOf("other", corev1.PodRunning, true)
	other.Labels = nil
	for _, tt := range []struct {
		name  string
		edit  func(*v1alpha1.QuiesceHook)
		pods  []corev1.Pod
		want  string // pods and containers
		fails string
	}{
		{"in order of names, and who has ended writes nothing", nil, []corev1.Pod{podOf("b", corev1.PodRunning, true), podOf("a", corev1.PodRunning, true),
			podOf("job", corev1.PodSucceeded, false), other}, "a/main b/main", ""},
		{"a container by name", func(h *v1alpha1.QuiesceHook) { h.Container = "side" }, []corev1.Pod{podOf("a", corev1.PodRunning, true)}, "a/side", ""},
		{"no such container", func(h *v1alpha1.QuiesceHook) { h.Container = "none" }, []corev1.Pod{podOf("a", corev1.PodRunning, true)}, "", `no running container "none"`},
		{"no pod", nil, []corev1.Pod{other}, "", `quiesce[3]: no pod matches "app=db"`},
		{"no pod, and that is meant", func(h *v1alpha1.QuiesceHook) { h.WhenNoPod = v1alpha1.WhenNoPodSkip }, nil, "", ""},
		{"one that does not run", nil, []corev1.Pod{podOf("a", corev1.PodPending, false)}, "", `container "main" of pod "a" does not run`},
		{"one that does not run is no absent one", func(h *v1alpha1.QuiesceHook) { h.WhenNoPod = v1alpha1.WhenNoPodSkip },
			[]corev1.Pod{podOf("a", corev1.PodPending, false)}, "", "does not run"},
		{"one that is going", nil, []corev1.Pod{going}, "", `pod "going" is being deleted`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := *hook.DeepCopy()
			if tt.edit != nil {
				tt.edit(&h)
			}
			got, err := targets(3, h, tt.pods)
			var names []string
			for _, q := range got {
				names = append(names, q.Pod+"/"+q.Container)
				if !q.PostHookDue || q.Hook != 3 || q.ContainerID == "" {
					t.Errorf("%+v", q)
				}
			}
			if strings.Join(names, " ") != tt.want || (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("got %q, %v", names, err)
			}
		})
	}
}

func TestConsistency(t *testing.T) {
	held := []v1alpha1.Quiesced{{UID: "a"}}
	for _, tt := range []struct {
		name string
		pods []corev1.Pod
		want v1alpha1.Consistency
	}{
		{"its only pod was held", []corev1.Pod{podOf("a", corev1.PodRunning, true, "data")}, v1alpha1.ConsistencyApplication},
		{"one of two pods was", []corev1.Pod{podOf("a", corev1.PodRunning, true, "data"), podOf("b", corev1.PodRunning, true, "data")}, v1alpha1.ConsistencyCrash},
		{"in the other order", []corev1.Pod{podOf("b", corev1.PodRunning, true, "data"), podOf("a", corev1.PodRunning, true, "data")}, v1alpha1.ConsistencyCrash},
		{"the other one has ended", []corev1.Pod{podOf("a", corev1.PodRunning, true, "data"), podOf("b", corev1.PodFailed, false, "data")}, v1alpha1.ConsistencyApplication},
		{"another claim's", []corev1.Pod{podOf("a", corev1.PodRunning, true, "other")}, v1alpha1.ConsistencyCrash},
		{"nobody's", nil, v1alpha1.ConsistencyCrash},
	} {
		if got := consistencyOf("data", tt.pods, held); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestJoinKeepsCauses(t *testing.T) {
	err := join(nil, errors.New("one"), nil, errBegun)
	if !errors.Is(err, errBegun) || err.Error() != "one; was begun before" || join(nil, nil) != nil {
		t.Errorf("got %v", err)
	}
}

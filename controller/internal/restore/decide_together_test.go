package restore

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// manyOf is a world of n groups with a reserved volume each, that was staged a minute ago.
func manyOf(n, room int) *world {
	w := worldOf(volume{})
	w.volumes, w.groups, w.room = nil, nil, room
	for i := range n {
		v := volume{Claim: dataClaim()}
		v.Name.Name, v.Index, v.Group = fmt.Sprintf("data-%d", i), i, i
		v.staging = staging(func(c *corev1.PersistentVolumeClaim) {
			c.Name, c.CreationTimestamp = stagingName(uid, i), metav1.Time{Time: now.Add(-time.Minute)}
		})
		v.target = target(func(c *corev1.PersistentVolumeClaim) { c.Name = v.Name.Name })
		v.pv = pv("staging", adopted, func(p *corev1.PersistentVolume) { p.Annotations[v1alpha1.AnnotationTarget] = v.Name.String() })
		w.volumes, w.groups = append(w.volumes, v), append(w.groups, group{Group: plan.Group{Index: i}})
	}
	return w
}

// provisioning takes a volume back to where it waits for its provisioner.
func provisioning(w *world, i int) {
	v := &w.volumes[i]
	v.pv, v.target = nil, nil
	unbound(v.staging)
}

func zone(name string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}},
	}}}}
}

// TestTogether: small volumes share movers only where there are more of them than movers, and where one can reach them all.
func TestTogether(t *testing.T) {
	tests := []struct {
		name    string
		n, room int
		change  func(w *world)
		want    string
	}{
		{"room for each", 3, 4, nil, "fill group 0, attempt 0, fill group 1, attempt 0, fill group 2, attempt 0"},
		{"two for each mover", 6, 3, nil, "fill group 0 and 1, fill group 2 and 3, fill group 4 and 5"},
		{"as even as it goes", 5, 3, nil, "fill group 0 and 1, fill group 2 and 3, fill group 4, attempt 0"},
		{"not too many", 12, 1, nil, "fill group 0 and 1.2.3.4.5.6.7"},
		{"a group of two stays together", 4, 2, func(w *world) {
			w.volumes[1].Group = 0
			w.groups = append(w.groups[:1], w.groups[2:]...)
		}, "fill group 0 and 2, fill group 3, attempt 0"},
		{"no room", 3, 0, nil, ""},
		{"not too much", 6, 1, func(w *world) {
			for i := range w.volumes {
				w.volumes[i].Bytes = smallBytes
			}
		}, "fill group 0 and 1.2.3"},
		{"a large one has its own mover, and goes first", 5, 2, func(w *world) { w.volumes[4].Bytes = smallBytes + 1 },
			"fill group 4, attempt 0, fill group 0 and 1.2.3"},
		{"one that went wrong with others has its own", 5, 2, func(w *world) {
			w.volumes[0].staging.Annotations = map[string]string{annotationAlone: "true"}
		}, "fill group 0, attempt 0, fill group 1 and 2.3.4"},
		{"what is tried again has its own", 4, 2, func(w *world) { w.groups[3].jobs = []job{ago(attempt(0, true), time.Hour)} },
			"fill group 3, attempt 1, fill group 0 and 1.2"},
		{"in two zones", 4, 2, func(w *world) {
			for i := range w.volumes {
				w.volumes[i].pv.Spec.NodeAffinity = zone(fmt.Sprint(i % 2))
			}
		}, "fill group 0 and 2, fill group 1 and 3"},
		{"for other nodes", 4, 2, func(w *world) { w.groups[0].NodeSelector = map[string]string{"disk": "fast"} },
			"fill group 0, attempt 0, fill group 1 and 2"},
		{"a volume that comes to be where its mover runs decides for itself", 3, 1, func(w *world) {
			w.volumes[0].WaitForFirstConsumer = true
			provisioning(w, 0)
		}, "fill group 0, attempt 0"},
		{"more are about to come", 3, 1, func(w *world) {
			for i := range w.volumes {
				w.volumes[i].staging.CreationTimestamp.Time = now.Add(-time.Second)
			}
			provisioning(w, 2)
		}, ""},
		{"there will be room for them", 3, 3, func(w *world) {
			for i := range w.volumes {
				w.volumes[i].staging.CreationTimestamp.Time = now
			}
			provisioning(w, 2)
		}, "fill group 0, attempt 0, fill group 1, attempt 0"},
		{"they are not waited for long", 3, 1, func(w *world) { provisioning(w, 2) }, "fill group 0 and 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := manyOf(tt.n, tt.room)
			if tt.change != nil {
				tt.change(w)
			}
			if got := join(decide(w)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestShared: what a mover of several proved is written down; what it did not fill gets a mover of its own, and holds nothing up.
func TestShared(t *testing.T) {
	broken := mover.Result{Error: "damaged", Reason: mover.ReasonDamaged}
	running := mover.State{Phase: mover.PhaseRunning}
	tests := []struct {
		name    string
		job     job
		results []mover.Result
		filled  []int
		parted  []int
		change  func(w *world)
		want    string
	}{
		{"at work", job{state: running}, nil, nil, nil, nil, ""},
		{"it has ended", job{state: running}, []mover.Result{whole(), whole(), whole()}, nil, nil, nil,
			"record shop/data-0, record shop/data-1, record shop/data-2"},
		{"not all is written down yet", job{state: running}, []mover.Result{whole(), whole(), whole()}, []int{0, 1}, nil, nil, "record shop/data-2"},
		{"all is written down", job{state: running}, []mover.Result{whole(), whole(), whole()}, []int{0, 1, 2}, nil, nil, "dismiss group 0"},
		{"being deleted", job{state: running, deleting: true}, []mover.Result{whole(), whole(), whole()}, []int{0, 1, 2}, nil, nil, ""},
		{"one is broken, others are still being filled", job{state: mover.State{Phase: mover.PhaseRunning, Terminal: true}, ended: now},
			[]mover.Result{broken}, nil, nil, nil, ""},
		{"one is broken", job{finished: true}, []mover.Result{whole(), broken, whole()}, nil, nil, nil, "record shop/data-0, record shop/data-2"},
		{"and is parted", job{finished: true}, []mover.Result{whole(), broken, whole()}, []int{0, 2}, nil, nil, "part shop/data-1"},
		{"then the mover goes", job{finished: true}, []mover.Result{whole(), broken, whole()}, []int{0, 2}, []int{1}, nil, "dismiss group 0"},
		{"killed in between", job{finished: true}, []mover.Result{whole()}, []int{0}, nil, nil, "part shop/data-1, part shop/data-2"},
		{"other data than was saved", job{finished: true}, []mover.Result{{ContentRoot: "x", Verified: true}, whole(), whole()}, []int{1, 2}, nil, nil, "part shop/data-0"},
		{"no image", job{state: mover.State{Phase: mover.PhaseFailed, Terminal: true}}, nil, nil, nil, nil,
			"part shop/data-0, part shop/data-1, part shop/data-2"},
		{"no node takes it", job{state: mover.State{Phase: mover.PhasePending, PendingSince: now.Add(-time.Hour)}}, nil, nil, nil, nil,
			"part shop/data-0, part shop/data-1, part shop/data-2"},
		{"its node is lost", job{state: mover.State{Phase: mover.PhaseRunning, Idle: time.Hour, LostNode: "one"}}, nil, nil, nil, nil, ""},
		{"a volume is lost", job{state: running}, nil, nil, nil, func(w *world) { w.volumes[1].stranded = true }, "dismiss group 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := manyOf(3, 4)
			s := &shared{job: tt.job, groups: []int{0, 1, 2}}
			s.state.Results = map[string]mover.Result{}
			for i, r := range tt.results {
				s.state.Results[stagingName(uid, i)] = r
			}
			w.shared = []*shared{s}
			for i := range w.groups {
				w.groups[i].shared, w.groups[i].pods = s, true
			}
			for _, i := range tt.filled {
				filled(w.volumes[i].pv)
			}
			for _, i := range tt.parted {
				w.volumes[i].staging.Annotations = map[string]string{annotationAlone: "true"}
			}
			if tt.change != nil {
				tt.change(w)
			}
			if got := join(decide(w)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestAfterShared: the volumes of a mover of several are handed over when it is gone, and not before; the one that it did not fill is
// filled when none of its pods is left.
func TestAfterShared(t *testing.T) {
	w := manyOf(3, 4)
	filled(w.volumes[0].pv)
	filled(w.volumes[2].pv)
	w.volumes[1].staging.Annotations = map[string]string{annotationAlone: "true"}
	for i := range w.groups {
		w.groups[i].pods = true
	}
	if got := join(decide(w)); got != "" {
		t.Errorf("with a pod left: %q", got)
	}
	for i := range w.groups {
		w.groups[i].pods = false
	}
	if got, want := join(decide(w)), "repoint shop/data-0, repoint shop/data-2, fill group 1, attempt 0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGroupsLabel(t *testing.T) {
	for _, groups := range [][]int{{0}, {3, 1, 20}} {
		if diff := cmp.Diff(groups, groupsOf(map[string]string{labelGroup: groupsLabel(groups)})); diff != "" {
			t.Error(diff)
		}
	}
	if got := groupsOf(nil); len(got) > 0 {
		t.Errorf("groups %v of no label", got)
	}
}

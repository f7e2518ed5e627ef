package restore

import (
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// To start a pod takes a node longer than to load a small volume. So where more small volumes wait than movers may run, one mover
// takes several, one after another. That is tried once: what such a mover did not fill, for whatever reason, gets a mover of its own,
// whose attempts are counted and explained as ever. One volume that fails so holds no other up.

const (
	// smallBytes is how much a group may hold whose mover takes others along, and togetherBytes how much that mover may take in all.
	smallBytes    = 64 << 20
	togetherBytes = 256 << 20
	// together bounds how many volumes a mover takes: their results share one message, and the first waits for the last.
	together = 8
	// gather is how long small volumes wait for one another while some are still being provisioned.
	gather = 5 * time.Second
)

// shared is a mover of several groups.
type shared struct {
	job
	// groups are their indexes; the first names the mover.
	groups []int
}

// over says that nothing more is to be expected of the mover. That it left a result which is final does not: others may run still.
func (s *shared) over(now time.Time) bool {
	return s.finished || s.state.Phase == mover.PhaseFailed || s.state.Hopeless(now) != ""
}

// decideShared says what becomes of a mover of several groups, once what it proved is written down.
func (w *world) decideShared(s *shared) []action {
	if s.deleting {
		return nil
	}
	var unfilled []*volume
	lost := false
	for _, g := range w.groups {
		if g.shared != s {
			continue
		}
		for _, v := range w.members(g) {
			switch {
			case v.hydrated() || v.Empty:
			case w.proven(g, *v) && v.pv != nil && v.adopted(w.uid):
				return nil
			default:
				unfilled = append(unfilled, v)
				lost = lost || v.lostVolume()
			}
		}
	}
	dismiss := []action{{verb: doDismiss, group: s.groups[0]}}
	if len(unfilled) == 0 || lost {
		return dismiss
	}
	if !s.over(w.now) {
		return nil
	}
	var alone []action
	for _, v := range unfilled {
		if v.staging != nil && !v.alone() {
			alone = append(alone, action{verb: doPart, claim: v.Name})
		}
	}
	if len(alone) > 0 {
		return alone
	}
	return dismiss
}

// alone says that a mover of several did not fill the volume.
func (v volume) alone() bool {
	return v.staging != nil && v.staging.Annotations[annotationAlone] != ""
}

// small says that the group's mover may take others along, now or when its volumes have been provisioned.
func (w *world) small(g group) bool {
	var bytes int64
	for _, v := range w.members(g) {
		switch at, _ := v.where(g, w.uid); {
		case v.hydrated() || v.Empty:
			continue
		case v.alone() || v.WaitForFirstConsumer && at < stepAdopt || at == stepStuck || at == stepWait:
			return false
		}
		bytes += v.Bytes
	}
	return bytes <= smallBytes
}

// decideTogether starts movers for small groups that are ready, of which there may be more than movers.
func (w *world) decideTogether(ready []group) []action {
	if len(ready) == 0 || w.room <= 0 || w.gathering(ready) {
		return nil
	}
	most := (len(ready) + w.room - 1) / w.room
	var out []action
	for len(ready) > 0 && w.room > 0 {
		var taken []int
		taken, ready = w.take(ready, most)
		w.room--
		out = append(out, action{verb: doFill, group: taken[0], with: taken[1:]})
	}
	return out
}

// take takes the first group and, up to a number of groups, those that fit to it. It returns their indexes, and who is left.
func (w *world) take(ready []group, most int) (taken []int, left []group) {
	place, volumes, bytes := w.place(ready[0]), 0, int64(0)
	for i, g := range ready {
		n, size := w.unfilled(g)
		fits := len(taken) < most && volumes+n <= together && bytes+size <= togetherBytes && w.place(g) == place
		if i > 0 && !fits {
			left = append(left, g)
			continue
		}
		taken, volumes, bytes = append(taken, g.Index), volumes+n, bytes+size
	}
	return taken, left
}

// gathering says that small volumes are about to be ready that will have to share movers with these, and that the first has not waited
// for them long.
func (w *world) gathering(ready []group) bool {
	all := 0
	for _, g := range w.groups {
		if n, _ := w.unfilled(g); n > 0 && !g.busy() && w.small(g) {
			all++
		}
	}
	if all == len(ready) || all <= w.room {
		return false
	}
	var first time.Time
	for _, g := range ready {
		for _, v := range w.members(g) {
			if v.staging != nil && (first.IsZero() || v.staging.CreationTimestamp.Time.Before(first)) {
				first = v.staging.CreationTimestamp.Time
			}
		}
	}
	waited := w.now.Sub(first)
	return 0 <= waited && waited < gather
}

// unfilled counts the volumes of a group that a mover has to fill, and their bytes.
func (w *world) unfilled(g group) (n int, bytes int64) {
	for _, v := range w.members(g) {
		if !v.hydrated() && !v.Empty {
			n, bytes = n+1, bytes+v.Bytes
		}
	}
	return n, bytes
}

// place is where a mover of the group may run. Groups go together only if that is the same, so that none is pulled away from where
// its volumes can be reached.
func (w *world) place(g group) string {
	type place struct {
		NodeSelector map[string]string
		NodeAffinity *corev1.NodeAffinity
		Tolerations  []corev1.Toleration
		Volumes      []string
	}
	p := place{NodeSelector: g.NodeSelector, NodeAffinity: g.NodeAffinity, Tolerations: g.Tolerations}
	for _, v := range w.members(g) {
		if v.pv == nil || v.hydrated() || v.Empty {
			continue
		}
		p.Volumes = append(p.Volumes, encoded(v.pv.Spec.NodeAffinity))
	}
	slices.Sort(p.Volumes)
	p.Volumes = slices.Compact(p.Volumes)
	return encoded(p)
}

func encoded(v any) string {
	data, err := json.Marshal(v)
	if err != nil { // structs of Kubernetes always marshal
		return err.Error()
	}
	return string(data)
}

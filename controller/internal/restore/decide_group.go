package restore

import (
	"fmt"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// What becomes of a group that its mover did not fill is decided by what the mover left:
//
//	it left                what it means                                                        then
//	Unavailable            the store did not answer, or did not let the mover in                again
//	Failed                 the volume or the node: full, an I/O error, no memory                again
//	no result              the pod was killed or evicted, ran out of time, or its node is lost  again
//	Damaged, Files         the vault answers, and does not hold the snapshot whole              given up
//	Vault                  there is no vault, or the key is not its own                         given up
//	Mismatch               the volume held something before, or holds other data than was saved given up
//	another digest         the same, without an error                                           given up
//	no pod                 the movers' image cannot be had                                      given up
//	why it was abandoned   no node takes it, a volume cannot be mounted, nothing moves          again
//
// What may pass is tried again without end, ever more rarely. After patience attempts the restore is Stalled with it, so that
// people look; it goes on by itself all the same once it passes. What is given up is tried again when a person asks.

// patience is how many attempts may fail before people should know.
const patience = 3

// backoff is the pause after an attempt, counted from 0.
func backoff(attempt int) time.Duration { return 10 * time.Second << min(attempt, 5) }

// decideMovers lets what is tried again go before what is new.
func (w *world) decideMovers() []action {
	var out []action
	var small []group
	for _, g := range w.groups {
		actions, ready := w.decideGroup(g)
		switch out = append(out, actions...); {
		case !ready:
		case w.small(g):
			small = append(small, g)
		case w.room > 0:
			w.room--
			out = append(out, action{verb: doFill, group: g.Index})
		}
	}
	for _, s := range w.shared {
		out = append(out, w.decideShared(s)...)
	}
	return append(out, w.decideTogether(small)...)
}

// decideGroup says what is next for a group, and whether it is ready for its first mover.
func (w *world) decideGroup(g group) (next []action, ready bool) {
	var records []action
	var missing, unready int
	lost := false
	for _, v := range w.members(g) {
		if lost = lost || v.lostVolume(); v.hydrated() {
			continue
		}
		if at, _ := v.where(g, w.uid); v.Empty {
			if at == stepFill { // with nothing
				records = append(records, action{verb: doRecord, claim: v.Name})
			}
			continue
		}
		missing++
		if w.proven(g, *v) && v.pv != nil && v.adopted(w.uid) {
			records = append(records, action{verb: doRecord, claim: v.Name})
		}
		if !w.fillable(g, *v) {
			unready++
		}
	}
	last := g.last()
	why, _ := w.failure(g)
	switch {
	case len(records) > 0:
		return records, false
	case g.shared != nil, last != nil && last.deleting:
		return nil, false
	case last != nil && (missing == 0 || lost || w.asked && why != "" && !last.ended.IsZero()):
		return []action{{verb: doDismiss, group: g.Index}}, false
	case missing > 0 && last != nil && last.ended.IsZero() && last.state.Hopeless(w.now) != "":
		return []action{{verb: doAbandon, group: g.Index}}, false
	case missing == 0 || unready > 0 || g.pods && last == nil || w.room == 0:
		return nil, false
	case last == nil:
		return nil, true
	case w.retryDue(g):
		w.room--
		return []action{{verb: doFill, group: g.Index, attempt: last.attempt + 1}}, false
	}
	return nil, false
}

// fillable says that a mover can mount the volume's staging claim: the target is reserved, or the volume will only be
// provisioned where the mover runs.
func (w *world) fillable(g group, v volume) bool {
	at, _ := v.where(g, w.uid)
	return at == stepFill || at == stepProvision && v.WaitForFirstConsumer
}

// proven says that the last attempt filled the volume and proved it.
func (w *world) proven(g group, v volume) bool {
	last := g.mover()
	if last == nil {
		return false
	}
	r, found := last.state.Results[stagingName(w.uid, v.Index)]
	return found && w.proves(r, v)
}

func (w *world) proves(r mover.Result, v volume) bool {
	return r.Error == "" && r.ContentRoot == v.ContentRoot && r.MetaRoot == v.MetaRoot &&
		(r.Verified || w.verify == v1alpha1.VerifyWrite)
}

// retryDue says that the last attempt is over, another may help and the pause between them is over, too. No pod of it may be left
// that could still write: one on a node that is lost goes when the cluster knows that the node does nothing any more.
func (w *world) retryDue(g group) bool {
	last := g.last()
	_, givenUp := w.failure(g)
	return !last.ended.IsZero() && !givenUp && !g.writing && w.now.Sub(last.ended) >= backoff(last.attempt)
}

// failure says in words why the newest attempt that is over did not fill a group, and whether the group is given up. It is
// empty if that attempt filled it, or none is over.
func (w *world) failure(g group) (why string, givenUp bool) {
	tried := g.lastEnded()
	if tried == nil {
		return "", false
	}
	for _, v := range w.members(g) {
		r, found := tried.state.Results[stagingName(w.uid, v.Index)]
		says, final := r.Error, r.Permanent()
		switch {
		case v.hydrated() || found && w.proves(r, *v):
			continue
		case !found:
			says, final = tried.state.Message, tried.state.Terminal
		case r.Error == "":
			says, final = "what the mover wrote is not what was saved", true
		}
		if why == "" || final {
			why = fmt.Sprintf("claim %s: %s", v.Name, says)
		}
		if final {
			return why, true
		}
	}
	return why, false
}

// stopped says in words why people should look after a group; empty while they need not.
func (w *world) stopped(g group) string {
	why, givenUp := w.failure(g)
	switch {
	case why == "" || givenUp:
		return why
	case g.lastEnded().attempt+1 >= patience:
		return why + "; it is tried again"
	}
	return ""
}

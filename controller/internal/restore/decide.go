package restore

import (
	"fmt"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// verb is one small thing to do. Each may be done twice, or die half way, without harm.
type verb string

// Verbs.
const (
	doStage    verb = "stage"     // make the staging claim
	doDefine   verb = "define"    // apply the commit's definitions
	doBase     verb = "base"      // apply what waits for no volume, and bring the residual Secrets back
	doAdopt    verb = "adopt"     // mark the volume and keep it from being reclaimed
	doReserve  verb = "reserve"   // let the target name the volume
	doRelease  verb = "release"   // apply a workload
	doFill     verb = "fill"      // start a mover for a group
	doRecord   verb = "record"    // write down that the volume is filled and verified
	doDismiss  verb = "dismiss"   // remove a group's movers
	doRepoint  verb = "repoint"   // hand the volume to the target
	doTouch    verb = "touch"     // make the volume controller look at a claim now
	doGiveBack verb = "give back" // give the volume its reclaim policy back
	doUnstage  verb = "unstage"   // remove the staging claim
)

// action is a verb and what it is done to.
type action struct {
	verb     verb
	claim    object.Name // for the verbs of one volume
	group    int         // for fill and dismiss
	attempt  int         // for fill
	workload object.Key  // for release
}

func (a action) String() string {
	switch {
	case a.claim.Name != "":
		return fmt.Sprintf("%s %s", a.verb, a.claim)
	case a.verb == doFill:
		return fmt.Sprintf("%s group %d, attempt %d", a.verb, a.group, a.attempt)
	case a.verb == doDismiss:
		return fmt.Sprintf("%s group %d", a.verb, a.group)
	case a.verb == doRelease:
		return fmt.Sprintf("%s %s", a.verb, a.workload)
	}
	return string(a.verb)
}

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
//
// What may pass is tried again without end, ever more rarely. After patience attempts the restore is Stalled with it, so that
// people look; it goes on by itself all the same once it passes. What is given up is tried again when a person asks.

// patience is how many attempts may fail before people should know.
const patience = 3

// backoff is the pause after an attempt, counted from 0.
func backoff(attempt int) time.Duration { return 10 * time.Second << min(attempt, 5) }

// decide says what to do next, all of which can be done now. Nothing of it depends on anything but the world.
func decide(w *world) []action {
	var out []action
	for _, v := range w.volumes {
		if at, _ := v.where(w.groupOf(v), w.uid); at == stepStage {
			out = append(out, action{verb: doStage, claim: v.Name})
		}
	}
	if !w.defined {
		return append(out, action{verb: doDefine})
	}
	if !w.based {
		out = append(out, action{verb: doBase})
	}
	for _, v := range w.volumes {
		out = append(out, w.decideVolume(v)...)
	}
	for _, l := range w.workloads {
		if w.based && !l.released && w.reservedAll(l.WaitsFor) {
			out = append(out, action{verb: doRelease, workload: l.Key})
		}
	}
	for _, g := range w.groups {
		out = append(out, w.decideGroup(g)...)
	}
	return out
}

func (w *world) decideVolume(v volume) []action {
	verbs := map[step]verb{
		stepAdopt: doAdopt, stepReserve: doReserve, stepRepoint: doRepoint, stepGiveBack: doGiveBack, stepUnstage: doUnstage,
	}
	at, _ := v.where(w.groupOf(v), w.uid)
	if do, ok := verbs[at]; ok {
		return []action{{verb: do, claim: v.Name}}
	}
	if at == stepBind && w.touchDue(v) {
		return []action{{verb: doTouch, claim: v.Name}}
	}
	return nil
}

// touchEvery is how often a claim is touched that is not bound yet: the volume controller may have looked at the claim
// before it saw the volume's new owner, and would look again only after its own, longer, period.
const touchEvery = 2 * time.Second

func (w *world) touchDue(v volume) bool {
	last, err := time.Parse(time.RFC3339Nano, v.lagging().Annotations[v1alpha1.AnnotationReconcileAt])
	return err != nil || w.now.Sub(last) >= touchEvery
}

// reservedAll says that each of the claims names its volume, so that pods wait for it instead of for an empty one.
func (w *world) reservedAll(names []object.Name) bool {
	for _, name := range names {
		for _, v := range w.volumes {
			if v.Name == name && !v.reserved(w.uid) {
				return false
			}
		}
	}
	return true
}

func (w *world) decideGroup(g group) []action {
	var records []action
	var missing, unready int
	for _, v := range w.members(g) {
		if v.hydrated() {
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
		return records
	case last != nil && last.deleting:
		return nil
	case last != nil && (missing == 0 || w.asked && why != "" && !last.ended.IsZero()):
		return []action{{verb: doDismiss, group: g.Index}}
	case missing == 0 || unready > 0 || g.pods && last == nil || w.movers >= w.maxMovers:
		return nil
	case last == nil:
		w.movers++
		return []action{{verb: doFill, group: g.Index}}
	case w.retryDue(g):
		w.movers++
		return []action{{verb: doFill, group: g.Index, attempt: last.attempt + 1}}
	}
	return nil
}

// fillable says that a mover can mount the volume's staging claim: the target is reserved, or the volume will only be
// provisioned where the mover runs.
func (w *world) fillable(g group, v volume) bool {
	at, _ := v.where(g, w.uid)
	return at == stepFill || at == stepProvision && v.WaitForFirstConsumer
}

// proven says that the last attempt filled the volume and proved it.
func (w *world) proven(g group, v volume) bool {
	last := g.last()
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

// retryDue says that the last attempt is over, another may help and the pause between them is over, too.
func (w *world) retryDue(g group) bool {
	last := g.last()
	_, givenUp := w.failure(g)
	return !last.ended.IsZero() && !givenUp && w.now.Sub(last.ended) >= backoff(last.attempt)
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

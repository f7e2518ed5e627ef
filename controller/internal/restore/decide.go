package restore

import (
	"fmt"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// verb is one small thing to do. Each may be done twice, or die half way, without harm.
type verb string

// Verbs.
const (
	doHold      verb = "hold"       // keep the engine from deploying
	doPin       verb = "pin"        // make the engine deploy the commit, once it is released
	doStage     verb = "stage"      // make the staging claim
	doApply     verb = "apply"      // apply an object that is no workload
	doBringBack verb = "bring back" // bring back what Git does not hold and no pod follows from
	doFollow    verb = "follow"     // bring back the rest of what Git does not hold
	doAdopt     verb = "adopt"      // mark the volume and keep it from being reclaimed
	doReserve   verb = "reserve"    // let the target name the volume
	doReplace   verb = "replace"    // remove a Job that is made again
	doForget    verb = "forget"     // delete a target that was made and never bound
	doRelease   verb = "release"    // apply a workload
	doFill      verb = "fill"       // start a mover for a group
	doPart      verb = "part"       // let a volume have a mover of its own
	doAbandon   verb = "abandon"    // end a group's mover for which there is no hope
	doRecord    verb = "record"     // write down that the volume is filled and verified
	doDismiss   verb = "dismiss"    // remove a group's movers
	doRepoint   verb = "repoint"    // hand the volume to the target
	doTouch     verb = "touch"      // make the volume controller look at a claim now
	doGiveBack  verb = "give back"  // give the volume its reclaim policy back
	doUnstage   verb = "unstage"    // remove the staging claim
)

// action is a verb and what it is done to.
type action struct {
	verb    verb
	claim   object.Name // for the verbs of one volume
	group   int         // for fill and dismiss
	attempt int         // for fill
	with    []int       // for fill: groups that the same mover takes
	object  object.Key  // for apply and release
}

func (a action) String() string {
	switch {
	case a.claim.Name != "":
		return fmt.Sprintf("%s %s", a.verb, a.claim)
	case a.verb == doFill && len(a.with) > 0:
		return fmt.Sprintf("%s group %d and %s", a.verb, a.group, groupsLabel(a.with))
	case a.verb == doFill:
		return fmt.Sprintf("%s group %d, attempt %d", a.verb, a.group, a.attempt)
	case a.verb == doDismiss, a.verb == doAbandon:
		return fmt.Sprintf("%s group %d", a.verb, a.group)
	case a.verb == doApply, a.verb == doRelease, a.verb == doReplace, a.verb == doStop, a.verb == doResume:
		return fmt.Sprintf("%s %s", a.verb, a.object)
	}
	return string(a.verb)
}

// decide says what to do next, all of which can be done now. Nothing of it depends on anything but the world.
func decide(w *world) []action {
	var out []action
	for _, v := range w.volumes {
		if at, _ := v.where(w.groupOf(v), w.uid); at == stepStage {
			out = append(out, action{verb: doStage, claim: v.Name})
		}
	}
	if w.engine.HoldDue {
		return append(out, action{verb: doHold})
	}
	if !w.engine.Held() {
		return out
	}
	if w.engine.PinDue {
		out = append(out, action{verb: doPin})
	}
	if !w.replacing() {
		out = append(out, w.decideResidual()...)
	}
	out = append(out, w.decideAside()...)
	for _, v := range w.volumes {
		out = append(out, w.decideVolume(v)...)
	}
	out = append(out, w.decideMovers()...)
	out = append(out, w.decideObjects()...)
	if w.replacing() { // what runs, runs on as it is
		return out
	}
	out = append(out, w.decideJobs()...)
	out = append(out, w.decideWorkloads()...)
	return append(out, w.decideResume()...)
}

func (w *world) decideVolume(v volume) []action {
	verbs := map[step]verb{
		stepAdopt: doAdopt, stepReserve: doReserve, stepForget: doForget, stepRepoint: doRepoint, stepGiveBack: doGiveBack, stepUnstage: doUnstage,
	}
	at, _ := v.where(w.groupOf(v), w.uid)
	if at == stepReserve && !w.namespaceUsable(v.Name.Namespace) {
		return nil
	}
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

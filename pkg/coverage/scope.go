package coverage

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// scope is what a check knows and has found.
type scope struct {
	Input
	head, base *view
	// fates are what becomes of the volumes of base; empty without one.
	fates  []fate
	rules  map[string]Rule
	rule   Rule
	found  []Finding
	impact []Impact
	// replays are known when all is found.
	replays map[string]Replayable
}

func newScope(in Input) *scope {
	if in.Head == nil {
		in.Head = &desired.State{}
	}
	s := &scope{Input: in, head: newView(in.Head), found: []Finding{}, impact: []Impact{}, rules: map[string]Rule{}}
	for _, r := range Rules() {
		s.rules[r.ID] = r
	}
	if in.Base != nil {
		s.base = newView(in.Base)
		s.ask()
		s.fates = s.foresee()
	}
	return s
}

// ask wants the unchanged owners whose volumes a change of something else touches: of a policy, or of a Namespace that goes.
func (s *scope) ask() {
	for _, before := range s.base.eachPolicy() {
		after := s.same(before.Object)
		if after == nil || !equality.Semantic.DeepEqual(before.Object.Object["spec"], after.Object["spec"]) {
			s.base.unchanged(before.GetNamespace(), before.Owner)
		}
	}
	for _, ns := range s.base.byKind[object.Namespace] {
		if s.same(ns) == nil {
			s.base.unchanged(ns.GetName(), ns.Owner)
		}
	}
}

// find notes a finding of the current rule about an object of head.
func (s *scope) find(o *desired.Object, message, fix string) *Finding {
	return s.add(Finding{Object: reference(o.Unstructured), Owner: o.Owner, Origin: o.Origin, Message: message, Fix: fix})
}

// add notes a finding of the current rule. What the caller then makes of it still counts.
func (s *scope) add(f Finding) *Finding {
	f.Rule, f.Severity = s.rule.ID, cmp.Or(f.Severity, s.rule.Severity)
	s.found = append(s.found, f)
	return &s.found[len(s.found)-1]
}

func reference(u *unstructured.Unstructured) Object {
	return Object{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
}

func (o Object) key() object.Key {
	gv, _ := schema.ParseGroupVersion(o.APIVersion)
	return object.Key{Group: gv.Group, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
}

// configured is the severity that the configuration wants. What is not certain is never worse than it was found.
func (s *scope) configured(f Finding) Severity {
	wanted, ok := s.Config.Rules[f.Rule]
	if !ok {
		return f.Severity
	}
	if f.Severity != s.rules[f.Rule].Severity && wanted != Off && f.Severity.rank() > wanted.rank() {
		return f.Severity
	}
	return wanted
}

// replay answers for each owner, and under the empty name for everything. What the configuration silences still counts: to be replayed
// is not a matter of taste.
func (s *scope) replay() map[string]Replayable {
	out := map[string]Replayable{}
	because := func(worst Replay, why string, ids ...string) {
		for _, id := range slices.Compact(ids) {
			r := out[id]
			out[id] = Replayable{r.Answer.worse(worst), append(r.Reasons, why)}
		}
	}
	for _, f := range s.found {
		if r := s.rules[f.Rule]; r.Replay != "" && f.Severity != Note {
			because(r.Replay, r.ID+": "+f.Message, "", f.Owner)
		}
	}
	unknown := 0
	for _, g := range s.head.gaps {
		if o := s.head.owners[g.Owner]; o != nil && chartFrom(o) != "" && exactVersion(chartVersion(o)) {
			because(ReplayWithLockfile, "the chart "+chartFrom(o)+" of "+o.ID+" comes from elsewhere, at a fixed version", "", g.Owner)
			continue
		}
		unknown++
		if g.Owner != "" {
			because(ReplayNo, g.What+" was not rendered, so that it is not known", g.Owner)
		}
	}
	if unknown > 0 {
		because(ReplayNo, fmt.Sprintf("of what was not rendered (%d) it is not known", unknown), "")
	}
	for id, r := range out {
		slices.Sort(r.Reasons)
		out[id] = Replayable{r.Answer, slices.Compact(r.Reasons)}
	}
	return out
}

func (s *scope) replayable(owner string) Replayable {
	if r, ok := s.replays[owner]; ok {
		return r
	}
	return Replayable{ReplayYes, []string{}}
}

func (s *scope) report() Report {
	s.replays = s.replay()
	r := Report{Findings: []Finding{}, Suppressed: []Silenced{}, Existing: []Finding{}, Impact: s.impact, NotRendered: append([]desired.Gap{}, s.head.gaps...),
		Replayable: s.replayable(""), Coverage: s.rows(), Unchanged: []string{}}
	for _, o := range s.head.skipped {
		r.Unchanged = append(r.Unchanged, o.ID)
	}
	wanted := maps.Clone(s.head.wanted)
	if s.base != nil {
		maps.Copy(wanted, s.base.wanted)
	}
	r.Wanted = slices.Sorted(maps.Keys(wanted))
	for i := range s.found {
		f := s.found[i]
		f.Severity, f.Fingerprint = s.configured(f), fingerprint(f)
		if f.Severity == Off {
			continue
		}
		if by, reason := s.silenced(f); by != "" {
			r.Suppressed = append(r.Suppressed, Silenced{Finding: f, By: by, Reason: reason})
			continue
		}
		r.Findings = append(r.Findings, f)
	}
	slices.SortStableFunc(r.Findings, order)
	r.Findings = slices.CompactFunc(r.Findings, func(a, b Finding) bool { return order(a, b) == 0 && a.Fingerprint == b.Fingerprint })
	slices.SortStableFunc(r.Suppressed, func(a, b Silenced) int { return order(a.Finding, b.Finding) })
	slices.SortStableFunc(r.Impact, func(a, b Impact) int {
		effects := []Effect{Deleted, MayBeDeleted, LeftBehind}
		return cmp.Or(cmp.Compare(slices.Index(effects, a.Effect), slices.Index(effects, b.Effect)), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Why, b.Why))
	})
	slices.SortStableFunc(r.Coverage, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Application, b.Application), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return r
}

// fingerprint depends on what a finding is about, not on where it stands or what is said of it.
func fingerprint(f Finding) string {
	k := f.Object.key()
	text, _ := json.Marshal([]string{f.Rule, f.Owner, k.Group, k.Kind, k.Namespace, k.Name, f.detail}) // strings: cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// silenced says where somebody took responsibility for a finding, and why; by is empty if nobody did.
func (s *scope) silenced(f Finding) (by, reason string) {
	if f.Rule == "LS901" {
		return "", "" // what says that an opt-out is none must not be opted out of by one
	}
	// What base says of an object counts only where the object is gone: who takes a reason away takes it back.
	for _, view := range []*view{s.head, s.base} {
		if view == nil {
			continue
		}
		there := false
		for _, o := range view.byKey[f.Object.key()] {
			if o.Owner == f.Owner {
				if reason := annotated(o)[f.Rule]; reason != "" {
					return ByAnnotation, reason
				}
				there = true
			}
		}
		if there {
			break
		}
	}
	for _, i := range s.Config.Ignore {
		if i.fits(f) && !i.expired(s.Now) {
			return ByConfiguration, i.Reason
		}
	}
	return "", ""
}

// annotated are the reasons that an object gives, by the IDs of rules; a reason that is missing is empty.
func annotated(o *desired.Object) map[string]string {
	text, ok := o.GetAnnotations()[AnnotationIgnore]
	if !ok {
		return nil
	}
	out := map[string]string{}
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		id, reason, _ := strings.Cut(part, ":")
		if id = strings.ToUpper(strings.TrimSpace(id)); id != "" {
			out[id] = strings.TrimSpace(reason)
		}
	}
	return out
}

func (i Ignore) fits(f Finding) bool {
	is := func(wanted, have string) bool { return wanted == "" || wanted == have }
	if !is(i.Rule, f.Rule) || f.Rule == "LS901" {
		return false
	}
	itself := is(i.Kind, f.Object.Kind) && is(i.Namespace, f.Object.Namespace) && is(i.Name, f.Object.Name)
	// A Kustomization stands for what it deploys: "Kustomization flux-system/shop".
	owner := i.Kind + " " + strings.TrimPrefix(i.Namespace+"/"+i.Name, "/")
	return itself || i.Kind != "" && i.Name != "" && (f.Owner == owner || strings.HasPrefix(f.Owner, owner+" (")) // of any cluster
}

func (i Ignore) expired(now time.Time) bool { return !i.Expires.IsZero() && !now.Before(i.Expires) }

// ineffective finds opt-outs that do not hold.
func ineffective(s *scope) {
	for _, i := range s.Config.Ignore {
		if i.expired(s.Now) {
			s.add(Finding{Origin: desired.Origin{File: ConfigName, Line: i.Line}, Object: Object{Kind: i.Kind, Namespace: i.Namespace, Name: i.Name},
				Message: "the opt-out of " + cmp.Or(i.Rule, "every rule") + " expired on " + i.Expires.AddDate(0, 0, -1).Format(time.DateOnly) + " (its reason was: " + i.Reason + ")",
				Fix:     "mend what it hid, or give it a new date with a reason that still holds", detail: i.Rule})
		}
	}
	for _, o := range s.head.objects {
		for id, reason := range annotated(o) {
			switch _, known := s.rules[id]; {
			case !known:
				s.find(o, "the annotation "+AnnotationIgnore+" names "+id+", and there is no such rule", "write \"LS001: reason\"").detail = id
			case reason == "":
				s.find(o, "the annotation "+AnnotationIgnore+" names "+id+" and gives no reason, so that it has no effect", "write \""+id+": reason\"").detail = id
			}
		}
	}
}

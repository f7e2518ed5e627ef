// Package coverage judges what commits deploy: whether the data is protected, what a change would do to it, and whether the commit could be
// replayed. It is pure: what is not known is said to be unknown, and never taken for protected.
package coverage

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// Severity of a finding.
type Severity string

// Severities, the worst first. Off is one for configurations alone: the rule finds nothing.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
	Off     Severity = "off"
)

// rank is 0 for the worst.
func (s Severity) rank() int { return slices.Index([]Severity{Error, Warning, Note, Off}, s) }

// AtLeast says whether s is as bad as other, or worse.
func (s Severity) AtLeast(other Severity) bool { return s.rank() <= other.rank() }

// Object names what a finding is about.
type Object struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
}

// Finding is one thing that is not as it should be.
type Finding struct {
	// Rule is the ID of a Rule.
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Object   Object   `json:"object"`
	// Owner is the ID of what deploys the object; empty if nothing does.
	Owner string `json:"owner,omitempty"`
	// Origin is where the object is written in head; in base if it is gone, and then Gone is true.
	desired.Origin
	Gone bool `json:"gone,omitempty"`
	// Message says what is wrong, Fix what to do. Both are sentences without a full stop.
	Message string `json:"message"`
	Fix     string `json:"fix"`
	// Fingerprint stays the same when files and lines move, and when the words of a message change.
	Fingerprint string `json:"fingerprint"`

	// detail tells findings of one rule about one object apart; object and rule are part of the fingerprint anyway.
	detail string
}

// Silenced is a finding that somebody has taken responsibility for.
type Silenced struct {
	Finding
	// By says where: "annotation", "configuration" or "baseline".
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// Answer is what is known of a volume's protection.
type Answer string

// Values of Answer.
const (
	// Protected: a policy selects it.
	Protected Answer = "protected"
	// Unprotected: none does.
	Unprotected Answer = "unprotected"
	// Excluded: somebody left it out and said why.
	Excluded Answer = "excluded"
	// Unknown: something was not rendered, or cannot be read, without which it is not known.
	Unknown Answer = "unknown"
)

// Row is the protection of one volume, or of those that an operator makes. What was not rendered has none.
type Row struct {
	// Application is the ID of the owner that deploys it; empty if there is none.
	Application string `json:"application"`
	Namespace   string `json:"namespace"`
	// Volume is a claim, "data-db-0", or those of a set, "data-db-{0..2}", or in words what has volumes that Git does not name.
	Volume string `json:"volume"`
	// Size is what one claim asks for, as a quantity; empty if it is not known.
	Size   string `json:"size,omitempty"`
	Answer Answer `json:"answer"`
	// Why explains an answer that is not Protected.
	Why string `json:"why,omitempty"`
	// Policy is the name of the policy that selects it, the one with the best RPO if there are several.
	Policy string `json:"policy,omitempty"`
	// RPO is the most data, as time, that may be lost by the policy's schedule, as a duration ("1h30m"); empty if it has none.
	RPO string `json:"rpo,omitempty"`
	// OnRequest says that the policy makes points only when somebody asks for one: it has no schedule and none at deploys.
	OnRequest bool `json:"onRequest,omitempty"`
	// PromisedRPO is what the policy's objectives say.
	PromisedRPO string      `json:"promisedRPO,omitempty"`
	Vaults      []string    `json:"vaults"`
	Replayable  Replay      `json:"replayable"`
	Point       *PointFacts `json:"point,omitempty"`
	desired.Origin
}

// Effect is what becomes of data.
type Effect string

// Effects, the worst first.
const (
	// Deleted: the claim is deleted, and with it, unless its volume's reclaim policy is Retain, the data.
	Deleted Effect = "deleted"
	// MayBeDeleted: it depends on the order of things, or on what was not rendered.
	MayBeDeleted Effect = "may-be-deleted"
	// LeftBehind: the data stays in its claim, which nothing uses any more; the application begins with an empty one, or without it.
	LeftBehind Effect = "left-behind"
)

// Impact is what merging does to the data of one claim, or of a set's.
type Impact struct {
	Rule      string `json:"rule"`
	Namespace string `json:"namespace"`
	// Volume is as in Row.
	Volume string `json:"volume"`
	// InWords says that Git does not name the claims: Volume says in words what has them.
	InWords bool   `json:"inWords,omitempty"`
	Size    string `json:"size,omitempty"`
	Effect  Effect `json:"effect"`
	// Why is a sentence without a full stop.
	Why string `json:"why"`
	// Protected says whether a policy selected it in base: there may be a point to restore it from.
	Protected Answer `json:"protected"`
}

// Replay says whether a commit would give the same cluster again.
type Replay string

// Values of Replay, the best first.
const (
	ReplayYes Replay = "yes"
	// ReplayWithLockfile: it does with what a restore point has noted beside it.
	ReplayWithLockfile Replay = "with-lockfile"
	ReplayNo           Replay = "no"
)

func (r Replay) worse(other Replay) Replay {
	order := []Replay{ReplayYes, ReplayWithLockfile, ReplayNo}
	return order[max(0, slices.Index(order, r), slices.Index(order, other))]
}

// Replayable is an answer with what speaks against a better one.
type Replayable struct {
	Answer Replay `json:"answer"`
	// Reasons are sentences without a full stop; empty for yes.
	Reasons []string `json:"reasons"`
}

// Report is what came of a check. Lists are never nil, and their order depends on nothing but their content.
type Report struct {
	Findings []Finding `json:"findings"`
	Coverage []Row     `json:"coverage"`
	// Impact is what merging would do to data; empty without a base.
	Impact []Impact `json:"impact"`
	// NotRendered are the gaps of head.
	NotRendered []desired.Gap `json:"notRendered"`
	// Unchanged are the IDs of owners that were skipped: they deploy the same in both commits, and were not judged.
	Unchanged []string `json:"unchanged"`
	// Wanted are those of them without which something that was judged is not known. Whoever renders them, too, and checks again gets
	// a better answer.
	Wanted     []string   `json:"-"`
	Replayable Replayable `json:"replayable"`
	Suppressed []Silenced `json:"suppressed"`
	// Existing are what is found in base, too: the change does not bring them.
	Existing []Finding `json:"existing"`
	// BaselineGone are entries of the baseline that are not found any more.
	BaselineGone []Known `json:"baselineGone,omitempty"`
}

// Worst is the worst severity among the findings; Off if there are none.
func (r *Report) Worst() Severity {
	worst := Off
	for _, f := range r.Findings {
		if f.Severity.rank() < worst.rank() {
			worst = f.Severity
		}
	}
	return worst
}

// Input is what a check goes by.
type Input struct {
	// Head is judged.
	Head *desired.State
	// Base is what head is compared with; nil for no comparison.
	Base   *desired.State
	Config Config
	// Facts are known from elsewhere than Git.
	Facts Facts
	Now   time.Time
}

// Check judges a commit. It changes nothing of what it is given.
func Check(in Input) Report {
	s := newScope(in)
	for _, r := range Rules() {
		if s.rule = r; !r.Compares || s.base != nil {
			r.check(s)
		}
	}
	s.forsaken()
	return s.report()
}

// order sorts findings by severity, rule, place and object. What merging does to data comes before what is not protected: of a long
// list people see the beginning.
func order(a, b Finding) int {
	return cmp.Or(cmp.Compare(a.Severity.rank(), b.Severity.rank()), cmp.Compare(later(a), later(b)), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Kind, b.Object.Kind), cmp.Compare(a.Object.Name, b.Object.Name),
		cmp.Compare(a.Object.APIVersion, b.Object.APIVersion), cmp.Compare(a.Message, b.Message), cmp.Compare(a.Owner, b.Owner))
}

func later(f Finding) int {
	if strings.HasPrefix(f.Rule, "LS1") {
		return 0
	}
	return 1
}

// Values of Silenced.By: who took the responsibility, or where.
const (
	ByAnnotation    = "annotation"
	ByConfiguration = "configuration"
	ByBaseline      = "baseline"
)

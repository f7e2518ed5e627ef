package coverage

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed rules/*.md
var pages embed.FS

// Rule is one thing that is looked for.
type Rule struct {
	ID string
	// Name is in words with hyphens: "claim-pruned".
	Name string
	// Severity is that of its findings if nothing else is said; what is not known for certain may be found with a lesser one.
	Severity Severity
	// Summary is a sentence without a full stop.
	Summary string
	// Replay is what a commit with such a finding is at best; empty if it does not matter to that.
	Replay Replay
	check  func(*scope)
}

// Page is the rule's documentation: Markdown that explains it with an example and how to mend it.
func (r Rule) Page() string {
	page, err := pages.ReadFile("rules/" + r.ID + ".md")
	if err != nil {
		return fmt.Sprintf("# %s %s\n\n%s.\n", r.ID, r.Name, r.Summary)
	}
	return string(page)
}

// FindRule finds a rule by its ID or name, in whatever case.
func FindRule(s string) (Rule, bool) {
	for _, r := range Rules() {
		if strings.EqualFold(r.ID, s) || strings.EqualFold(r.Name, s) {
			return r, true
		}
	}
	return Rule{}, false
}

// Rules are all rules, in the order of their IDs.
func Rules() []Rule {
	return []Rule{
		{ID: "LS001", Name: "uncovered-volume", Severity: Error, Summary: "no policy selects the volume"},
		{ID: "LS002", Name: "policy-matches-nothing", Severity: Error, Summary: "the policy selects no volume"},
		{ID: "LS003", Name: "rpo-weaker-than-declared", Severity: Error, Summary: "the schedule is slower than the promised RPO"},
		{ID: "LS004", Name: "no-offsite-copy", Severity: Warning, Summary: "the points are in one vault only"},
		{ID: "LS005", Name: "no-app-consistency", Severity: Warning, Summary: "a database is saved without a hook that holds it still"},
		{ID: "LS006", Name: "no-drill", Severity: Note, Summary: "nothing tests that the points can be restored"},

		{ID: "LS101", Name: "claim-pruned", Severity: Error, Summary: "merging deletes a claim with its data"},
		{ID: "LS102", Name: "claim-renamed", Severity: Error, Summary: "a claim has a new name, and begins empty"},
		{ID: "LS103", Name: "template-or-set-renamed", Severity: Error, Summary: "a StatefulSet or its claim template has a new name, and begins empty"},
		{ID: "LS104", Name: "namespace-changed", Severity: Error, Summary: "a volume moves to another namespace, and begins empty"},
		{ID: "LS105", Name: "immutable-claim-change", Severity: Error, Summary: "a claim is changed in what cannot be changed"},
		{ID: "LS106", Name: "owner-renamed", Severity: Error, Summary: "what deploys a volume is renamed, and the old one deletes it"},
		{ID: "LS107", Name: "coverage-removed", Severity: Error, Summary: "a volume was protected and is not any more"},
		{ID: "LS108", Name: "retention-delete", Severity: Error, Summary: "a StatefulSet deletes its claims when it is deleted or scaled"},
		{ID: "LS109", Name: "force-replace-stateful", Severity: Error, Summary: "what holds data is replaced by force"},

		{ID: "LS201", Name: "reclaim-delete", Severity: Warning, Summary: "volumes of the StorageClass are deleted with their claims"},
		{ID: "LS202", Name: "emptydir-database", Severity: Error, Summary: "a database keeps its data where it ends with the pod"},
		{ID: "LS203", Name: "hostpath-data", Severity: Warning, Summary: "data is in a directory of a node"},
		{ID: "LS204", Name: "operator-database", Severity: Warning, Summary: "an operator makes the volumes of a database"},
		{ID: "LS205", Name: "replicas-reduced", Severity: Warning, Summary: "a StatefulSet leaves claims behind"},
		{ID: "LS206", Name: "major-version-jump", Severity: Warning, Summary: "a database changes its major version without a point before"},

		{ID: "LS301", Name: "image-not-digest", Severity: Warning, Replay: ReplayWithLockfile, Summary: "an image is named by a tag"},
		{ID: "LS302", Name: "remote-base-unpinned", Severity: Error, Replay: ReplayNo, Summary: "manifests come from elsewhere, from no fixed commit"},
		{ID: "LS303", Name: "chart-range", Severity: Error, Replay: ReplayWithLockfile, Summary: "a chart's version is not fixed"},
		{ID: "LS304", Name: "secret-not-in-git", Severity: Error, Replay: ReplayNo, Summary: "a pod needs a Secret that nothing brings"},
		{ID: "LS305", Name: "decryption-key-escrow", Severity: Warning, Replay: ReplayNo, Summary: "no restore point keeps the key that Git's secrets are opened with"},
		{ID: "LS306", Name: "nondeterministic-render", Severity: Warning, Replay: ReplayNo, Summary: "the same commit does not always give the same objects"},
		{ID: "LS307", Name: "external-substitution", Severity: Warning, Replay: ReplayNo, Summary: "values come from objects that are not in Git"},
		{ID: "LS308", Name: "crd-or-class-missing", Severity: Error, Summary: "the cluster must have a kind or StorageClass that Git does not bring"},

		{ID: "LS401", Name: "unprotected-live-claim", Severity: Error, Summary: "a claim in the cluster is in no policy"},
		{ID: "LS402", Name: "point-too-old", Severity: Error, Summary: "the newest good point is older than promised"},
		{ID: "LS403", Name: "orphaned-data", Severity: Warning, Summary: "data in the cluster that nothing uses"},
		{ID: "LS404", Name: "not-restorable-today", Severity: Error, Summary: "the vault holds no point from which the commit could be restored"},

		{ID: "LS901", Name: "ignored-without-effect", Severity: Warning, Summary: "an opt-out has expired, or has no reason"},
	}
}

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
	// Compares says that it looks at two commits.
	Compares bool
	check    func(*scope)
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
		{ID: "LS001", Name: "uncovered-volume", Severity: Error, Summary: "no policy selects the volume", check: uncoveredVolume},
		{ID: "LS002", Name: "policy-matches-nothing", Severity: Error, Summary: "the policy selects no volume", check: policyMatchesNothing},
		{ID: "LS003", Name: "rpo-weaker-than-declared", Severity: Error, Summary: "the schedule is slower than the promised RPO", check: weakRPO},
		{ID: "LS004", Name: "no-offsite-copy", Severity: Warning, Summary: "the points are in one vault only", check: noOffsiteCopy},
		{ID: "LS005", Name: "no-app-consistency", Severity: Warning, Summary: "a database is saved without a hook that holds it still", check: noAppConsistency},
		{ID: "LS006", Name: "no-drill", Severity: Note, Summary: "nothing tests that the points can be restored", check: noDrill},

		{ID: "LS101", Compares: true, Name: "claim-pruned", Severity: Error, Summary: "merging deletes a claim with its data", check: claimPruned},
		{ID: "LS102", Compares: true, Name: "claim-renamed", Severity: Error, Summary: "a claim has a new name, and begins empty", check: claimRenamed},
		{ID: "LS103", Compares: true, Name: "template-or-set-renamed", Severity: Error, Summary: "a StatefulSet or its claim template has a new name, and begins empty", check: setRenamed},
		{ID: "LS104", Compares: true, Name: "namespace-changed", Severity: Error, Summary: "a volume moves to another namespace, and begins empty", check: namespaceChanged},
		{ID: "LS105", Compares: true, Name: "immutable-claim-change", Severity: Error, Summary: "a claim is changed in what cannot be changed", check: immutableChange},
		{ID: "LS106", Compares: true, Name: "owner-renamed", Severity: Error, Summary: "what deploys a volume is renamed, and the old one deletes it", check: ownerRenamed},
		{ID: "LS107", Compares: true, Name: "coverage-removed", Severity: Error, Summary: "a volume was protected and is not any more", check: coverageRemoved},
		{ID: "LS108", Compares: true, Name: "retention-delete", Severity: Error, Summary: "a StatefulSet deletes its claims when it is deleted or scaled", check: retentionDelete},
		{ID: "LS109", Compares: true, Name: "force-replace-stateful", Severity: Error, Summary: "what holds data is replaced by force", check: forceReplace},

		{ID: "LS201", Name: "reclaim-delete", Severity: Warning, Summary: "volumes of the StorageClass are deleted with their claims", check: reclaimDelete},
		{ID: "LS202", Name: "emptydir-database", Severity: Error, Summary: "a database keeps its data where it ends with the pod", check: emptyDirDatabase},
		{ID: "LS203", Name: "hostpath-data", Severity: Warning, Summary: "data is in a directory of a node", check: hostPathData},
		{ID: "LS204", Name: "operator-database", Severity: Warning, Summary: "an operator makes the volumes of a database", check: operatorDatabase},
		{ID: "LS205", Compares: true, Name: "replicas-reduced", Severity: Warning, Summary: "a StatefulSet leaves claims behind", check: replicasReduced},
		{ID: "LS206", Compares: true, Name: "major-version-jump", Severity: Warning, Summary: "a database changes its major version without a point before", check: majorJump},

		{ID: "LS301", Name: "image-not-digest", Severity: Warning, Replay: ReplayWithLockfile, Summary: "an image is named by a tag", check: imageNotDigest},
		{ID: "LS302", Name: "remote-base-unpinned", Severity: Error, Replay: ReplayNo, Summary: "manifests come from elsewhere, from no fixed commit", check: remoteBaseUnpinned},
		{ID: "LS303", Name: "chart-range", Severity: Error, Replay: ReplayWithLockfile, Summary: "a chart's version is not fixed", check: chartRange},
		{ID: "LS304", Name: "secret-not-in-git", Severity: Error, Replay: ReplayNo, Summary: "a pod needs a Secret that nothing brings", check: secretNotInGit},
		{ID: "LS305", Name: "decryption-key-escrow", Severity: Warning, Replay: ReplayNo, Summary: "no restore point keeps the key that Git's secrets are opened with", check: keyEscrow},
		{ID: "LS306", Name: "nondeterministic-render", Severity: Warning, Replay: ReplayNo, Summary: "the same commit does not always give the same objects", check: nondeterministic},
		{ID: "LS307", Name: "external-substitution", Severity: Warning, Replay: ReplayNo, Summary: "values come from objects that are not in Git", check: externalSubstitution},
		{ID: "LS308", Name: "crd-or-class-missing", Severity: Error, Summary: "the cluster must have a kind or StorageClass that Git does not bring", check: crdOrClassMissing},

		{ID: "LS401", Name: "unprotected-live-claim", Severity: Error, Summary: "a claim in the cluster is in no policy", check: unprotectedLive},
		{ID: "LS402", Name: "point-too-old", Severity: Error, Summary: "the newest good point is older than promised", check: pointTooOld},
		{ID: "LS403", Name: "orphaned-data", Severity: Warning, Summary: "data in the cluster that nothing uses", check: orphanedData},
		{ID: "LS404", Name: "not-restorable-today", Severity: Error, Summary: "the vault holds no point from which the commit could be restored", check: notRestorable},

		{ID: "LS901", Name: "ignored-without-effect", Severity: Warning, Summary: "an opt-out has expired, or has no reason", check: ineffective},
	}
}

// Package doctor looks at a cluster, or at a vault alone, and says what will not work before it has to. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Result is what a check came to. The names are part of the document that scripts read.
type Result string

// Results. Unknown is never taken for one of the others: what could not be asked is not well.
const (
	OK      Result = "ok"
	Warning Result = "warning"
	Unknown Result = "unknown"
	Error   Result = "error"
)

// rank orders results, the worst last.
var rank = map[Result]int{OK: 0, Warning: 1, Unknown: 2, Error: 3}

// Finding is one thing that a check has seen.
type Finding struct {
	Result Result `json:"result"`
	Seen   string `json:"seen"`
	// Fix says what to do; empty where nothing is to be done.
	Fix string `json:"fix,omitempty"`
}

// Group is what checks are about.
type Group string

// Groups, in the order in which they are shown.
const (
	GroupCluster    Group = "cluster"
	GroupLockstep   Group = "lockstep"
	GroupVaults     Group = "vaults"
	GroupProtection Group = "protection"
	GroupStorage    Group = "storage"
	GroupAccess     Group = "permissions"
	GroupGitOps     Group = "gitops"
	GroupLeftovers  Group = "leftovers"
)

// Check is one question. Its IDs are part of the document that scripts read.
type Check struct {
	ID    string
	Group Group
	Title string
	// Gate says that, where the answer is not known, nothing else is asked: it would not be answered either.
	Gate bool
	// Run looks. An error means that the answer is not known.
	Run func(ctx context.Context, s *Subject) ([]Finding, error)
}

// Answer is a check and what came of it.
type Answer struct {
	ID    string `json:"id"`
	Group Group  `json:"group"`
	Title string `json:"title"`
	// Result is the worst of the findings'.
	Result   Result    `json:"result"`
	Findings []Finding `json:"findings"`
}

// Report is what was found.
type Report struct {
	// Result is the worst of the answers'.
	Result  Result   `json:"result"`
	Answers []Answer `json:"checks"`
}

// parallel bounds the checks that run at the same time.
const parallel = 8

// Examine runs the checks, each within the limit, and answers in their order. A gate comes first.
func Examine(ctx context.Context, s *Subject, checks []Check, limit time.Duration) Report {
	if len(checks) > 1 && checks[0].Gate {
		first := Examine(ctx, s, checks[:1], limit)
		if first.Result == Unknown {
			return first
		}
		rest := Examine(ctx, s, checks[1:], limit)
		return Report{worse(first.Result, rest.Result), append(first.Answers, rest.Answers...)}
	}
	r := Report{Result: OK, Answers: make([]Answer, len(checks))}
	var wait sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i, c := range checks {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			r.Answers[i] = ask(ctx, s, c, limit)
		})
	}
	wait.Wait()
	for _, a := range r.Answers {
		r.Result = worse(r.Result, a.Result)
	}
	return r
}

func ask(ctx context.Context, s *Subject, c Check, limit time.Duration) Answer {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	findings, err := c.Run(limited, s)
	if err != nil {
		fix := "Mend the access, and ask again."
		if errors.Is(limited.Err(), context.DeadlineExceeded) {
			err, fix = fmt.Errorf("no answer within %s", limit), "Ask again with a longer --check-timeout."
		}
		findings = append(findings, Finding{Unknown, err.Error(), fix})
	}
	a := Answer{ID: c.ID, Group: c.Group, Title: c.Title, Result: OK, Findings: findings}
	if a.Findings == nil {
		a.Findings = []Finding{}
	}
	for _, f := range findings {
		a.Result = worse(a.Result, f.Result)
	}
	return a
}

func worse(a, b Result) Result {
	if rank[b] > rank[a] {
		return b
	}
	return a
}

func ok(format string, args ...any) Finding { return Finding{OK, fmt.Sprintf(format, args...), ""} }

func warning(fix, format string, args ...any) Finding {
	return Finding{Warning, fmt.Sprintf(format, args...), fix}
}

func problem(fix, format string, args ...any) Finding {
	return Finding{Error, fmt.Sprintf(format, args...), fix}
}

func unknown(fix, format string, args ...any) Finding {
	return Finding{Unknown, fmt.Sprintf(format, args...), fix}
}

// Checks are those of a cluster.
func Checks() []Check {
	return []Check{
		{ID: "api-server", Group: GroupCluster, Title: "The API server is new enough", Gate: true, Run: checkAPIServer},
		{ID: "clock", Group: GroupCluster, Title: "The clocks agree", Run: checkClock},
		{ID: "kinds", Group: GroupLockstep, Title: "The kinds are those of this version", Run: checkKinds},
		{ID: "controller", Group: GroupLockstep, Title: "The controller runs, in this version", Run: checkController},
		{ID: "pod-security", Group: GroupLockstep, Title: "Movers are admitted", Run: checkPodSecurity},
		{ID: "movers", Group: GroupLockstep, Title: "A mover has run here", Run: checkMovers},
		{ID: "vaults", Group: GroupVaults, Title: "Every vault is open", Run: checkVaults},
		{ID: "vault-keys", Group: GroupVaults, Title: "Every vault's key is there", Run: checkVaultKeys},
		{ID: "vault-from-here", Group: GroupVaults, Title: "Every vault opens from here", Run: checkVaultsFromHere},
		{ID: "vault-locks", Group: GroupVaults, Title: "Every vault locks what it is to lock", Run: checkVaultLocks},
		{ID: "policies", Group: GroupProtection, Title: "Every policy protects, within its RPO", Run: checkPolicies},
		{ID: "points", Group: GroupProtection, Title: "The newest points can be restored", Run: checkPoints},
		{ID: "unprotected", Group: GroupProtection, Title: "Every claim is protected", Run: checkUnprotected},
		{ID: "snapshots", Group: GroupStorage, Title: "Snapshots can be taken", Run: checkSnapshots},
		{ID: "storage-classes", Group: GroupStorage, Title: "The storage classes suit", Run: checkStorageClasses},
		{ID: "caller", Group: GroupAccess, Title: "You may restore", Run: checkCaller},
		{ID: "account", Group: GroupAccess, Title: "The controller may do its work", Run: checkAccount},
		{ID: "engines", Group: GroupGitOps, Title: "What deploys the protected applications", Run: checkEngines},
		{ID: "held", Group: GroupGitOps, Title: "Nothing is held for a restore that is gone", Run: checkHeld},
		{ID: "gates", Group: GroupGitOps, Title: "Every deploy that waits for a point has somebody to let it go on", Run: checkGates},
		{ID: "stalled", Group: GroupLeftovers, Title: "No point and no restore has stopped", Run: checkStalled},
		{ID: "orphans", Group: GroupLeftovers, Title: "Nothing is left over", Run: checkOrphans},
	}
}

// VaultChecks are those of a vault alone: could a bare cluster be restored from it?
func VaultChecks() []Check {
	return []Check{
		{ID: "vault-open", Group: GroupVaults, Title: "The vault answers, and its key opens it", Gate: true, Run: checkVaultOpen},
		{ID: "vault-second-key", Group: GroupVaults, Title: "The vault has more than one key", Run: checkSecondKey},
		{ID: "vault-points", Group: GroupProtection, Title: "Every application has a point that can be restored", Run: checkVaultPoints},
	}
}

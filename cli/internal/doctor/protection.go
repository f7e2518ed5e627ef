package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func checkPolicies(ctx context.Context, s *Subject) ([]Finding, error) {
	policies, err := s.allPolicies(ctx)
	if err != nil {
		return nil, err
	}
	if len(policies) == 0 {
		return []Finding{problem("Put a ProtectionPolicy beside the application in Git.", "there is no ProtectionPolicy: nothing is protected")}, nil
	}
	var out []Finding
	for i := range policies {
		out = append(out, s.policy(&policies[i]))
	}
	return out, nil
}

func (s *Subject) policy(p *v1alpha1.ProtectionPolicy) Finding {
	describe := "lockstep describe policy/" + p.Name + " -n " + p.Namespace
	if c := condition(p.Status.Conditions); c.Status != metav1.ConditionTrue {
		return problem(describe, "policy %s does not protect: %s: %s", name(p), c.Reason, c.Message)
	}
	if p.Annotations[v1alpha1.AnnotationRevision] == "" {
		return warning("lockstep apply, or let your pipeline write the annotation "+v1alpha1.AnnotationRevision,
			"policy %s: nothing says which commit is running, so that no point can be taken unless Flux or Argo CD says it", name(p))
	}
	last := p.Status.LastPoint
	if last == nil {
		return warning("lockstep backup "+p.Name+" -n "+p.Namespace, "policy %s has no point yet", name(p))
	}
	age := s.Now().Sub(last.Taken.Time)
	if o := p.Spec.Objectives; o != nil && o.RPO != nil && age > o.RPO.Duration {
		return problem(describe, "policy %s breaks its RPO of %s: the last good point is %s old", name(p), output.Duration(o.RPO.Duration), output.Duration(age))
	}
	if p.Spec.Suspend {
		return warning("Remove spec.suspend in Git.", "policy %s is suspended: no further points come by themselves", name(p))
	}
	return ok("policy %s: the last good point is %s old", name(p), output.Duration(age))
}

// checkPoints asks the vault, not the cluster: a new cluster will have nothing else.
func checkPoints(ctx context.Context, s *Subject) ([]Finding, error) {
	policies, err := s.allPolicies(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := s.openVaults(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	now := s.Now()
	for i := range policies {
		p := &policies[i]
		for _, vault := range p.Spec.Vaults {
			o, known := opened[vault]
			switch {
			case !known:
				out = append(out, problem("Make the Vault, or name another in the policy.", "policy %s names vault %s, which does not exist", name(p), vault))
				continue
			case o.err != nil:
				out = append(out, unknown("See the check vault-from-here.", "policy %s: vault %s does not open from here", name(p), vault))
				continue
			}
			choice, err := catalog.Find(ctx, o.Vault, match.Query{Application: name(p), Before: &now}, nil)
			if absent := (*match.AbsentError)(nil); errors.As(err, &absent) {
				out = append(out, warning("lockstep backup "+p.Name+" -n "+p.Namespace, "policy %s: vault %s holds no point of it", name(p), vault))
				continue
			}
			if err != nil {
				return out, fmt.Errorf("asking vault %s: %w", vault, err)
			}
			out = append(out, s.restorable(ctx, o.Vault, choice.Record))
		}
	}
	return out, nil
}

// restorable says whether all that a restore would need of the point can be read: its record, which was read already, what it
// holds beside volumes, the beginning of each volume's tree, and its commit.
func (s *Subject) restorable(ctx context.Context, v *volume.Vault, r point.Record) Finding {
	what := fmt.Sprintf("point %s of %s, taken %s", r.ID, r.Application, output.Ago(s.Now(), r.Taken))
	damaged := "lockstep volume verify --level chunks, then lockstep vault repair --dry-run"
	if _, err := catalog.Residual(ctx, v, r); err != nil {
		return unreadable(damaged, what+": what Git does not hold", err)
	}
	for _, vol := range r.Volumes {
		if err := readable(ctx, v, vol.Snapshot); err != nil {
			return unreadable(damaged, what+": volume "+vol.Key(), err)
		}
	}
	found := fmt.Sprintf("%s: %s and the rest of it can be read", what, output.Count(len(r.Volumes), "volume", "volumes"))
	if s.Repository == nil || !revision.SameRepository(s.Repository.URL(), r.Revision.Repository) {
		return ok("%s; Git was not asked for commit %s: name its repository with --repo", found, revision.Short(r.Revision.Commit))
	}
	err := s.Repository.Holds(ctx, r.Revision.Commit, r.Revision.Path)
	switch {
	case errors.Is(err, git.ErrRefNotFound), errors.Is(err, git.ErrPathNotFound):
		return problem("Push the commit again, or keep it by a tag; until then restore a point of another commit.", "%s: %v", what, err)
	case err != nil:
		return unknown("Check the URL, the network and the credentials.", "%s: %v", what, err)
	}
	return ok("%s, and Git has its commit %s", found, revision.Short(r.Revision.Commit))
}

// unreadable tells damage, which is proven, from a store that did not answer.
func unreadable(fix, what string, err error) Finding {
	if errors.Is(err, volume.ErrDamaged) || errors.Is(err, volume.ErrSnapshotNotFound) || errors.Is(err, volume.ErrDocumentNotFound) {
		return problem(fix, "%s: %v", what, err)
	}
	return unknown("Mend the access to the vault, and ask again.", "%s: %v", what, err)
}

// readable reads the snapshot's record, the index and the first level of the tree.
func readable(ctx context.Context, v *volume.Vault, snapshot string) error {
	for _, err := range v.Entries(ctx, snapshot, "", false) {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkUnprotected(ctx context.Context, s *Subject) ([]Finding, error) {
	policies, err := s.allPolicies(ctx)
	if err != nil {
		return nil, err
	}
	claims, err := s.allClaims(ctx)
	if err != nil {
		return nil, err
	}
	bare := map[string][]string{}
	excluded, protected := 0, 0
	for i := range claims {
		c := &claims[i]
		if c.Namespace == v1alpha1.SystemNamespace {
			continue
		}
		is, err := isProtected(policies, c)
		switch {
		case err != nil:
			return nil, err
		case c.Annotations[v1alpha1.AnnotationExclude] != "":
			excluded++
		case is:
			protected++
		default:
			bare[c.Namespace] = append(bare[c.Namespace], c.Name)
		}
	}
	var out []Finding
	for namespace, names := range bare {
		slices.Sort(names)
		out = append(out, warning("Write a ProtectionPolicy for them, or say why not: kubectl -n "+namespace+" annotate pvc NAME "+v1alpha1.AnnotationExclude+"=REASON",
			"namespace %s: no policy protects %s", namespace, strings.Join(names, ", ")))
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Seen, b.Seen) })
	if len(out) == 0 {
		out = append(out, ok("%s protected, %d left out on purpose", output.Count(protected, "claim is", "claims are"), excluded))
	}
	return out, nil
}

func isProtected(policies []v1alpha1.ProtectionPolicy, c *corev1.PersistentVolumeClaim) (bool, error) {
	for i := range policies {
		p := &policies[i]
		if p.Namespace != c.Namespace {
			continue
		}
		if p.Spec.Volumes.Selector == nil {
			return true, nil
		}
		selector, err := metav1.LabelSelectorAsSelector(p.Spec.Volumes.Selector)
		if err != nil {
			return false, fmt.Errorf("reading the selector of policy %s: %w", name(p), err)
		}
		if selector.Matches(labels.Set(c.Labels)) {
			return true, nil
		}
	}
	return false, nil
}

// The vault alone.

func checkVaultOpen(ctx context.Context, s *Subject) ([]Finding, error) {
	v, err := s.openBare(ctx)
	if err != nil {
		return []Finding{notOpen("the vault", err)}, nil
	}
	out := []Finding{ok("vault %s opens with the key %s; %s", v.ID(), v.Key.Path, keepCopy)}
	if v.Key.Exposed {
		out = append(out, warning("chmod 600 "+v.Key.Path, "other users of this machine can read the key"))
	}
	return out, nil
}

func checkSecondKey(ctx context.Context, s *Subject) ([]Finding, error) {
	v, err := s.openBare(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := v.Keys(ctx)
	if err != nil {
		return nil, err
	}
	if len(keys) < 2 {
		return []Finding{warning("lockstep vault key add, and keep that key in another place.", "one single key opens this vault: whoever loses it loses everything")}, nil
	}
	return []Finding{ok("%d keys open this vault", len(keys))}, nil
}

func checkVaultPoints(ctx context.Context, s *Subject) ([]Finding, error) {
	v, err := s.openBare(ctx)
	if err != nil {
		return nil, err
	}
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return nil, err
	}
	newest := map[string]point.Record{}
	for _, r := range records {
		if have, ok := newest[r.Application]; !ok || r.Taken.After(have.Taken) {
			newest[r.Application] = r
		}
	}
	if len(newest) == 0 {
		return []Finding{problem("Check the URL and its prefix. For a new vault: lockstep backup", "the vault holds no point: a bare cluster cannot be restored from it")}, nil
	}
	var out []Finding
	for _, r := range newest {
		out = append(out, s.restorable(ctx, v.Vault, r))
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Seen, b.Seen) })
	return out, nil
}

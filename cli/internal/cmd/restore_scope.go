package cmd

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// scope is what comes back, if not all of a commit.
type scope struct {
	volumes []string
	only    []string
}

func (s *scope) addFlags(cmd *cobra.Command, p *Program) {
	f := cmd.Flags()
	f.StringArrayVar(&s.volumes, "volume", nil,
		"only this volume, <namespace>/<claim>, or <namespace>/<claim>=<namespace>/<new claim>, and no commit; may be given several times")
	f.StringArrayVar(&s.only, "only", nil,
		"only this workload of the commit, <Kind>/<namespace>/<name>, with what it needs; may be given several times")
	cmd.MarkFlagsMutuallyExclusive("volume", "only")
	for _, name := range []string{"tag", "branch", "allow-ancestor", "allow-mismatch", "schema-path", "repo", "path", "git-secret"} {
		cmd.MarkFlagsMutuallyExclusive("volume", name)
	}
	// The error says that a flag does not exist, and it was added above.
	_ = cmd.RegisterFlagCompletionFunc("volume", p.completeVolumes)
}

// volumesOnly says that no commit is replayed, so that no repository is needed.
func (s *scope) volumesOnly() bool { return len(s.volumes) > 0 }

// check refuses what the API would refuse, in the words of flags.
func (s *scope) check(from v1alpha1.RestoreFrom) error {
	if _, err := s.workloads(); err != nil {
		return err
	}
	if !s.volumesOnly() {
		return nil
	}
	if _, err := s.requests(); err != nil {
		return err
	}
	switch {
	case from.Commit != "" && len(from.Commit) < 40:
		return fault.New(fault.Usage, "Without a repository nothing completes it.", "--volume needs the full --commit")
	case from.Before != nil && from.Application == "":
		return fault.New(fault.Usage, "Say of which application: --application <namespace>/<policy>.", "--before with --volume does not say of what")
	}
	return nil
}

// requests are the volumes as the API has them.
func (s *scope) requests() ([]v1alpha1.VolumeRequest, error) {
	var out []v1alpha1.VolumeRequest
	for _, text := range s.volumes {
		claim, as, renamed := strings.Cut(text, "=")
		for _, name := range []string{claim, cmp.Or(as, claim)} {
			if _, err := object.ParseName(name); err != nil || renamed && as == "" {
				return nil, fault.New(fault.Usage, "Write it as <namespace>/<claim>, or <namespace>/<claim>=<namespace>/<new claim>.",
					"--volume %q does not name a claim", text)
			}
		}
		if slices.ContainsFunc(out, func(r v1alpha1.VolumeRequest) bool { return r.Claim == claim }) {
			return nil, fault.New(fault.Usage, "Use two restores.", "--volume names claim %s twice", claim)
		}
		out = append(out, v1alpha1.VolumeRequest{Claim: claim, As: as})
	}
	return out, nil
}

// workloads are the workloads as the API has them.
func (s *scope) workloads() ([]v1alpha1.WorkloadReference, error) {
	kinds := []string{"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet"}
	var out []v1alpha1.WorkloadReference
	for _, text := range s.only {
		kind, rest, _ := strings.Cut(text, "/")
		name, err := object.ParseName(rest)
		i := slices.IndexFunc(kinds, func(k string) bool { return strings.EqualFold(k, kind) })
		if err != nil || i < 0 {
			return nil, fault.New(fault.Usage, "Write it as StatefulSet/shop/db; kinds are "+strings.Join(kinds, ", ")+".",
				"--only %q does not name a workload", text)
		}
		out = append(out, v1alpha1.WorkloadReference{Kind: kinds[i], Namespace: name.Namespace, Name: name.Name})
	}
	return out, nil
}

// completeVolumes completes the claims of the point, or of all of the cluster's points if none is named.
func (p *Program) completeVolumes(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	id := cmd.Flag("point").Value.String()
	return p.complete(cmd, prefix, func(ctx context.Context, c *kube.Cluster) []string {
		var list v1alpha1.RestorePointList
		if c.List(ctx, &list) != nil {
			return nil
		}
		var claims []string
		for _, point := range list.Items {
			for _, v := range point.Status.Volumes {
				if strings.HasPrefix(point.Status.ID, id) {
					claims = append(claims, point.Namespace+"/"+v.Claim)
				}
			}
		}
		slices.Sort(claims)
		return slices.Compact(claims)
	})
}

package cmd

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// deployStatus is a deploy that waits for its restore point.
type deployStatus struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// From is the revision that runs, To the one that waits.
	From   string       `json:"from"`
	To     string       `json:"to"`
	Since  *metav1.Time `json:"since,omitempty"`
	Points []string     `json:"points"`
	Reason string       `json:"reason"`
	Why    string       `json:"why"`
}

// deploys lists those of a namespace that wait, or of all if it is empty. A point that is being taken is no problem.
func (r *statusReport) deploys(gates []flux.Gate, namespace string) {
	for _, g := range gates {
		if !g.Closed() {
			continue
		}
		s := deployStatus{
			Kind: "Kustomization", Namespace: g.Name.Namespace, Name: g.Name.Name, From: g.Applied, To: g.Incoming, Points: []string{},
			Reason: "Unexplained", Why: "the controller has not said why: is it running?",
		}
		if w := g.Waiting; w != nil && w.To == g.Incoming {
			s.Reason, s.Why, s.Since, s.Points = w.Reason, w.Message, &w.Since, append(s.Points, w.Points...)
		}
		if namespace != "" && namespace != s.Namespace && !slices.ContainsFunc(s.Points, func(p string) bool { return strings.HasPrefix(p, namespace+"/") }) {
			continue
		}
		r.Deploys = append(r.Deploys, s)
		if s.Reason != v1alpha1.ReasonTakingPoint {
			r.problem("kustomization/%s -n %s does not deploy %s: %s", s.Name, s.Namespace, shortRevision(s.To), s.Why)
		}
	}
	r.Well = len(r.Problems) == 0
}

// shortRevision is a revision of Flux as people read it.
func shortRevision(text string) string {
	ref, commit, err := revision.Parse(text)
	if err != nil {
		return text
	}
	return strings.TrimPrefix(ref+"@"+revision.Short(commit), "@")
}

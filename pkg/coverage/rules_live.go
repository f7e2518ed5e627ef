package coverage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/selection"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// These rules look at a cluster and at vaults, where they were asked.

func unprotectedLive(s *scope) {
	live := s.Facts.Live
	if live == nil {
		return
	}
	for _, missing := range live.Missing {
		s.add(Finding{Object: Object{Kind: "Cluster"}, Message: "the cluster was not asked for everything, so that it is not known what is unprotected there: " + missing,
			Fix: "give the kubeconfig's user the permission to list it"}).detail = missing
	}
	var selectors []*selection.Selector
	for i := range live.Policies {
		if selector, err := selection.Parse(&live.Policies[i]); err == nil && !suspended(live.Policies[i].Spec) {
			selectors = append(selectors, selector)
		}
	}
	for i := range live.Claims {
		claim := &live.Claims[i]
		if claim.Labels[v1alpha1.LabelManagedBy] == "lockstep" || strings.TrimSpace(claim.Annotations[v1alpha1.AnnotationExclude]) != "" || claim.DeletionTimestamp != nil {
			continue
		}
		if !slices.ContainsFunc(selectors, func(s *selection.Selector) bool { return s.Takes(claim) }) {
			s.add(Finding{Object: claimObject(claim.Namespace, claim.Name), Message: fmt.Sprintf("the claim %s/%s is in the cluster, and no policy there protects it", claim.Namespace, claim.Name),
				Fix: "put a ProtectionPolicy that selects it into its namespace, or annotate the claim with " + v1alpha1.AnnotationExclude + " and the reason"})
		}
	}
}

func claimObject(namespace, name string) Object {
	return Object{APIVersion: "v1", Kind: object.Claim.Kind, Namespace: namespace, Name: name}
}

func pointTooOld(s *scope) {
	if s.Facts.Live == nil {
		return
	}
	for i := range s.Facts.Live.Policies {
		p := &s.Facts.Live.Policies[i]
		if p.Spec.Objectives == nil || p.Spec.Objectives.RPO == nil {
			continue
		}
		rpo := p.Spec.Objectives.RPO.Duration
		promised := spelling.Duration(rpo)
		about := Object{APIVersion: v1alpha1.GroupVersion.String(), Kind: policyKind.Kind, Namespace: p.Namespace, Name: p.Name}
		fix := fmt.Sprintf("look at what stops it: kubectl -n %s describe protectionpolicy %s", p.Namespace, p.Name)
		if p.Status.LastPoint == nil {
			s.add(Finding{Object: about, Message: fmt.Sprintf("the policy %s/%s promises an RPO of %s and has no good point at all", p.Namespace, p.Name, promised), Fix: fix})
		} else if age := s.Now.Sub(p.Status.LastPoint.Taken.Time); age > rpo {
			s.add(Finding{Object: about, Message: fmt.Sprintf("the newest good point of the policy %s/%s is %s old, and an RPO of %s is promised", p.Namespace, p.Name, spelling.Duration(age.Round(time.Second)), promised), Fix: fix})
		}
	}
}

func orphanedData(s *scope) {
	live := s.Facts.Live
	if live == nil {
		return
	}
	for _, v := range live.Volumes {
		if v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain {
			was := ""
			if r := v.Spec.ClaimRef; r != nil {
				was = " of the claim " + r.Namespace + "/" + r.Name
			}
			s.add(Finding{Object: Object{APIVersion: "v1", Kind: "PersistentVolume", Name: v.Name}, Message: fmt.Sprintf("the volume %s holds data%s and is in no claim", v.Name, was),
				Fix: "see whether the data is needed; then delete the volume, or bind it to a claim"})
		}
	}
	if live.Mounted == nil {
		return
	}
	for _, c := range live.Claims {
		if c.Status.Phase == corev1.ClaimBound && c.Labels[v1alpha1.LabelManagedBy] != "lockstep" && !live.Mounted[object.Name{Namespace: c.Namespace, Name: c.Name}] {
			s.add(Finding{Object: claimObject(c.Namespace, c.Name), Message: fmt.Sprintf("nothing uses the claim %s/%s", c.Namespace, c.Name),
				Fix: "see whether its data is needed, and delete it if not"})
		}
	}
}

func notRestorable(s *scope) {
	if s.Facts.Points == nil {
		return
	}
	for _, p := range s.head.eachPolicy() {
		var answers []string
		good := false
		for _, f := range s.Facts.Points {
			if !f.of(p) {
				continue
			}
			good = good || f.Found == "found"
			answers = append(answers, f.Vault+": "+cmp.Or(f.Why, f.Found))
		}
		if good {
			continue
		}
		slices.Sort(answers)
		s.find(p.Object, fmt.Sprintf("there is no point from which this commit of %s could be restored today (%s)", p.GetName(), cmp.Or(strings.Join(answers, "; "), "no vault was asked")),
			"deploy the commit and take a point of it: lockstep backup "+p.GetName())
	}
}

package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

var (
	fluxKustomization = kindOf("kustomize.toolkit.fluxcd.io", "Kustomization")
	fluxRelease       = kindOf("helm.toolkit.fluxcd.io", "HelmRelease")
	fluxRepository    = kindOf("source.toolkit.fluxcd.io", "GitRepository")
	argoApplication   = kindOf("argoproj.io", "Application")
)

// checkEngines says which engine deploys into the namespaces of policies, and what of it is off.
func checkEngines(ctx context.Context, s *Subject) ([]Finding, error) {
	policies, err := s.allPolicies(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	ruled := map[string][]string{}
	for _, engine := range []struct {
		name, what string
		kind       schema.GroupKind
	}{
		{"Flux", "Kustomization", fluxKustomization}, {"Flux", "HelmRelease", fluxRelease}, {"Argo CD", "Application", argoApplication},
	} {
		version, found, err := s.serves(engine.kind)
		if err != nil {
			return out, err
		}
		if !found {
			continue
		}
		all, err := s.objects(ctx, engine.kind)
		if err != nil {
			return out, err
		}
		out = append(out, ok("%s is installed: %d of kind %s, %s", engine.name, len(all), engine.what, version))
		for _, u := range all {
			for _, p := range policies {
				if deploysInto(u, p.Namespace) {
					ruled[name(&p)] = append(ruled[name(&p)], engine.what+" "+name(&u))
					out = append(out, off(u, engine.what, name(&p))...)
				}
			}
		}
	}
	for i := range policies {
		p := &policies[i]
		if by := ruled[name(p)]; len(by) > 0 {
			slices.Sort(by)
			out = append(out, ok("policy %s: its namespace is deployed by %s", name(p), strings.Join(slices.Compact(by), ", ")))
		}
	}
	if len(out) == 0 {
		out = append(out, ok("neither Flux nor Argo CD is installed: Lockstep applies commits itself"))
	}
	return out, nil
}

// deploysInto says whether an object of an engine puts things into a namespace, as far as its spec and its inventory tell.
func deploysInto(u unstructured.Unstructured, namespace string) bool {
	switch u.GetKind() {
	case fluxKustomization.Kind:
		if text(u, "spec", "targetNamespace") == namespace {
			return true
		}
		entries, _, _ := unstructured.NestedSlice(u.Object, "status", "inventory", "entries")
		return slices.ContainsFunc(entries, func(e any) bool {
			entry, _ := e.(map[string]any)
			id, _ := entry["id"].(string)
			return strings.HasPrefix(id, namespace+"_")
		})
	case fluxRelease.Kind:
		into := text(u, "spec", "targetNamespace")
		return into == namespace || into == "" && u.GetNamespace() == namespace
	case argoApplication.Kind:
		if text(u, "spec", "destination", "namespace") == namespace {
			return true
		}
		resources, _, _ := unstructured.NestedSlice(u.Object, "status", "resources")
		return slices.ContainsFunc(resources, func(r any) bool {
			resource, _ := r.(map[string]any)
			return resource["namespace"] == namespace
		})
	}
	return false
}

// off says what of an object of an engine does not work now.
func off(u unstructured.Unstructured, kind, policy string) []Finding {
	if u.GetLabels()[v1alpha1.LabelRestore] != "" {
		return nil // the check of what is held tells
	}
	if suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend"); suspended {
		return []Finding{warning("Resume it, if nobody meant that: flux resume "+strings.ToLower(kind)+" "+u.GetName()+" -n "+u.GetNamespace(),
			"%s %s, which deploys policy %s, is suspended: the cluster does not follow Git", kind, name(&u), policy)}
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		if condition["type"] == "Ready" && condition["status"] == "False" {
			return []Finding{warning("Mend the deployment first: a restore replays the same commit.", "%s %s, which deploys policy %s, is not ready: %v",
				kind, name(&u), policy, condition["message"])}
		}
	}
	return nil
}

// checkHeld looks for objects of engines that a restore has pinned or held, and not given back.
func checkHeld(ctx context.Context, s *Subject) ([]Finding, error) {
	restores, err := s.allRestores(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, kind := range []schema.GroupKind{fluxRepository, fluxKustomization, fluxRelease, argoApplication} {
		held, err := s.objects(ctx, kind, client.HasLabels{v1alpha1.LabelRestore})
		if err != nil {
			return out, err
		}
		for _, u := range held {
			uid := u.GetLabels()[v1alpha1.LabelRestore]
			what := fmt.Sprintf("%s %s is held or pinned", kind.Kind, name(&u))
			switch i := slices.IndexFunc(restores, func(r v1alpha1.Restore) bool { return string(r.UID) == uid }); {
			case i < 0:
				out = append(out, problem(releaseGone(u), "%s by a Restore that is gone: it does not follow Git", what))
			case restores[i].Status.CompletedAt != nil:
				out = append(out, warning("Let it go when Git's branch says what was restored: "+"lockstep restore release "+restores[i].Name+" -n "+restores[i].Namespace,
					"%s by Restore %s, which is done: it does not follow Git's branch", what, name(&restores[i])))
			default:
				out = append(out, ok("%s by Restore %s, which is under way", what, name(&restores[i])))
			}
		}
	}
	if len(out) == 0 {
		out = append(out, ok("nothing is held"))
	}
	return out, nil
}

// releaseGone says how to give back what is held for a Restore that is gone, whose name the object itself has.
func releaseGone(u unstructured.Unstructured) string {
	namespace, restore, ok := strings.Cut(u.GetAnnotations()[v1alpha1.AnnotationHeldBy], "/")
	if !ok {
		return "Nothing says what was there before: put that back as Git has it, and remove the label " + v1alpha1.LabelRestore + "."
	}
	return "lockstep restore release " + restore + " -n " + namespace
}

package coverage

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var separator = regexp.MustCompile(`(?m)^---\n`)

const rootID = "Kustomization flux-system/flux-system"

// stateOf reads a State as it is written in tests and on the rules' pages: documents of YAML. What deploys stands before what it
// deploys; what stands before all is deployed by the Kustomization flux-system/apps. A document of the kind Gap is one. Everything is
// brought by a Kustomization that prunes.
func stateOf(t testing.TB, text string) *desired.State {
	t.Helper()
	s := &desired.State{Owners: []desired.Owner{{ID: rootID, Kind: desired.Kustomization, Namespace: "flux-system", Name: "flux-system", Prune: true}}}
	owner := desired.Owner{ID: "Kustomization flux-system/apps", Kind: desired.Kustomization, Namespace: "flux-system", Name: "apps", Prune: true, Parent: rootID}
	s.Owners = append(s.Owners, owner)
	line := 1
	for _, doc := range separator.Split(text, -1) {
		at := desired.Origin{File: "all.yaml", Line: line}
		line += strings.Count(doc, "\n") + 1
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if u.Object == nil {
			continue
		}
		if u.GetKind() == "Gap" {
			field := func(name string) string { v, _, _ := unstructured.NestedString(u.Object, name); return v }
			s.Gaps = append(s.Gaps, desired.Gap{Owner: field("owner"), Origin: at, What: field("what"), Why: field("why")})
			continue
		}
		if made, ok := ownerOf(u); ok {
			made.Origin, owner = at, made
			s.Owners = append(s.Owners, made)
			s.Objects = append(s.Objects, desired.Object{Unstructured: u, Owner: cmp.Or(made.Parent, rootID), Origin: at})
			source, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "name")
			if made.Kind == desired.Kustomization && source != "flux-system" {
				s.Gaps = append(s.Gaps, desired.Gap{Owner: made.ID, Origin: at, What: "GitRepository " + source, Why: "it is another repository"})
			}
			continue
		}
		s.Objects = append(s.Objects, desired.Object{Unstructured: u, Owner: owner.ID, Origin: at})
	}
	slices.SortStableFunc(s.Objects, func(a, b desired.Object) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), object.KeyOf(a.Unstructured).Compare(object.KeyOf(b.Unstructured)))
	})
	slices.SortFunc(s.Owners, func(a, b desired.Owner) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

func ownerOf(u *unstructured.Unstructured) (desired.Owner, bool) {
	boolean := func(path ...string) bool { v, _, _ := unstructured.NestedBool(u.Object, path...); return v }
	text := func(path ...string) string { v, _, _ := unstructured.NestedString(u.Object, path...); return v }
	o := desired.Owner{Namespace: u.GetNamespace(), Name: u.GetName(), Object: u, Parent: rootID}
	switch u.GroupVersionKind().GroupKind().String() {
	case "Kustomization.kustomize.toolkit.fluxcd.io":
		o.Kind, o.Prune, o.Force, o.Suspended, o.Target = desired.Kustomization, boolean("spec", "prune"), boolean("spec", "force"), boolean("spec", "suspend"), text("spec", "targetNamespace")
		depends, _, _ := unstructured.NestedSlice(u.Object, "spec", "dependsOn")
		for _, d := range depends {
			m, _ := d.(map[string]any)
			name, _, _ := unstructured.NestedString(m, "name")
			o.DependsOn = append(o.DependsOn, "Kustomization "+o.Namespace+"/"+name)
		}
	case "HelmRelease.helm.toolkit.fluxcd.io":
		o.Kind, o.Prune, o.Target = desired.HelmRelease, true, text("spec", "targetNamespace")
	case "Application.argoproj.io":
		o.Kind, o.Prune, o.Target = desired.Application, boolean("spec", "syncPolicy", "automated", "prune"), text("spec", "destination", "namespace")
	default:
		return o, false
	}
	o.ID = string(o.Kind) + " " + o.Namespace + "/" + o.Name
	if parent := u.GetAnnotations()["test/parent"]; parent != "" {
		o.Parent = strings.TrimSpace(strings.TrimPrefix(parent, "none"))
	}
	return o, true
}

// check is Check at the moment of the tests; base may be empty.
func check(t testing.TB, base, head string) Report {
	t.Helper()
	in := Input{Head: stateOf(t, head), Now: now}
	if base != "" {
		in.Base = stateOf(t, base)
	}
	return Check(in)
}

// found are the findings of a rule: "<severity> <object>: <message>".
func found(r Report, rule string) []string {
	var out []string
	for _, f := range r.Findings {
		if f.Rule == rule {
			out = append(out, string(f.Severity)+" "+f.Object.Kind+" "+f.Object.Namespace+"/"+f.Object.Name+": "+f.Message)
		}
	}
	return out
}

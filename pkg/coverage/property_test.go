package coverage

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// corpus are the states of all pages.
func corpus(t *testing.T) []string {
	var all []string
	for _, r := range Rules() {
		for _, m := range example.FindAllStringSubmatch(r.Page(), -1) {
			all = append(all, m[2])
		}
	}
	if len(all) < 60 {
		t.Fatalf("only %d examples", len(all))
	}
	// Many at once, as in a repository: each with a Kustomization of its own.
	var docs []string
	for i, a := range all {
		if strings.Contains(a, "kind: Kustomization") || strings.Contains(a, "kind: HelmRelease") {
			continue // an ID names one owner in a State
		}
		docs = append(docs, kustomization("k"+string(rune('a'+i%26))+string(rune('a'+i/26))), a, gap("", "chart x"))
	}
	return append(all, join(docs...))
}

// TestNothingChangesNothing: a commit that is compared with itself loses no data.
func TestNothingChangesNothing(t *testing.T) {
	for _, text := range corpus(t) {
		r := check(t, text, text)
		if got := dataRules(r); len(got) > 0 || len(r.Impact) > 0 {
			t.Errorf("found %q, impact %+v in\n%.500s", got, r.Impact, text)
		}
	}
}

// TestOrderDoesNotMatter: the report follows from what is in a State, and nothing in the State is changed.
func TestOrderDoesNotMatter(t *testing.T) {
	texts := corpus(t)
	random := rand.New(rand.NewPCG(1, 2))
	for i, text := range texts {
		base, head := stateOf(t, texts[(i+1)%len(texts)]), stateOf(t, text)
		want := report(t, base, head)
		if cmp.Diff(stateOf(t, text), head) != "" {
			t.Fatal("the check has changed what it was given")
		}
		for range 2 {
			shuffle(random, base)
			shuffle(random, head)
			if got := report(t, base, head); got != want {
				t.Fatalf("another order gives another report:\n%s", cmp.Diff(want, got))
			}
		}
	}
}

func shuffle(r *rand.Rand, s *desired.State) {
	r.Shuffle(len(s.Owners), func(i, j int) { s.Owners[i], s.Owners[j] = s.Owners[j], s.Owners[i] })
	r.Shuffle(len(s.Objects), func(i, j int) { s.Objects[i], s.Objects[j] = s.Objects[j], s.Objects[i] })
	r.Shuffle(len(s.Gaps), func(i, j int) { s.Gaps[i], s.Gaps[j] = s.Gaps[j], s.Gaps[i] })
}

func report(t *testing.T, base, head *desired.State) string {
	t.Helper()
	out, err := json.MarshalIndent(Check(Input{Base: base, Head: head, Now: now}), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestFormOfReport: lists are never null, and the names are those that the documentation gives.
func TestFormOfReport(t *testing.T) {
	empty, err := json.Marshal(Check(Input{Now: now}))
	if want := `{"findings":[],"coverage":[],"impact":[],"notRendered":[],"unchanged":[],"replayable":{"answer":"yes","reasons":[]},"suppressed":[],"existing":[]}`; err != nil || string(empty) != want {
		t.Errorf("%s, %v", empty, err)
	}
	one, err := json.Marshal(check(t, "", pvc("shop", "data")).Findings[0])
	want := `{"rule":"LS001","severity":"error","object":{"apiVersion":"v1","kind":"PersistentVolumeClaim","namespace":"shop","name":"data"},"owner":"Kustomization flux-system/apps","file":"all.yaml","line":1,"message":"`
	if err != nil || !strings.HasPrefix(string(one), want) || !strings.Contains(string(one), `"fix":"`) || !strings.Contains(string(one), `"fingerprint":"`) {
		t.Errorf("%s, %v", one, err)
	}
}

// FuzzCheck: whatever strangers write into manifests, a check ends with a report.
func FuzzCheck(f *testing.F) {
	for _, r := range Rules() {
		before := ""
		for _, m := range example.FindAllStringSubmatch(r.Page(), -1) {
			if m[1] == "before" {
				before = m[2]
			}
			f.Add(before, m[2])
		}
	}
	f.Fuzz(func(t *testing.T, base, head string) {
		for _, text := range []string{base, head} {
			for _, doc := range separator.Split(text, -1) {
				if u := map[string]any{}; len(text) > 1<<14 || yaml.Unmarshal([]byte(doc), &u) != nil {
					t.Skip()
				}
			}
		}
		in := Input{Base: stateOf(t, base), Head: stateOf(t, head), Now: now}
		if _, err := json.Marshal(Check(in)); err != nil {
			t.Fatal(err)
		}
	})
}

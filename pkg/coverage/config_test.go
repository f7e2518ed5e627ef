package coverage

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	got, err := ParseConfig([]byte(`
rules:
  LS006: off
  no-offsite-copy: error
ignore:
  - rule: ls001
    kind: PersistentVolumeClaim
    namespace: shop
    name: cache
    reason: made again each night
    expires: 2027-01-31
  - {rule: LS203, namespace: tools, reason: caches}
cluster:
  storageClasses: [gp3]
  kinds: ["*.cert-manager.io"]
`))
	want := Config{
		Rules: map[string]Severity{"LS006": Off, "LS004": Error},
		Ignore: []Ignore{
			{Rule: "LS001", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "cache", Reason: "made again each night", Expires: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC), Line: 6},
			{Rule: "LS203", Namespace: "tools", Reason: "caches", Line: 12},
		},
		Cluster: Cluster{StorageClasses: []string{"gp3"}, Kinds: []string{"*.cert-manager.io"}},
	}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	for _, empty := range []string{"", "\n", "# nothing\n", "---\n", "rules:\n", "ignore:\ncluster: {kinds: }", "{}"} {
		if got, err := ParseConfig([]byte(empty)); err != nil || cmp.Diff(Config{}, got) != "" {
			t.Errorf("%q: %v, %v", empty, got, err)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"rule: {}":                            `.lockstep.yaml:1: there is no field "rule" here; there are cluster, ignore, rules`,
		"rules:\n  LS999: off":                `.lockstep.yaml:2: there is no rule "LS999"`,
		"rules:\n  LS001: fatal":              `.lockstep.yaml:2: the severity "fatal" of LS001 is none of error, warning, note and off`,
		"rules: {LS001: off, ls001: off}":     ".lockstep.yaml:1: LS001 stands twice",
		"rules: [LS001]":                      ".lockstep.yaml:1: there must be a mapping from rules to severities here",
		"rules: {}\nrules: {}":                `.lockstep.yaml:2: the field "rules" stands twice`,
		"ignore: {}":                          ".lockstep.yaml:1: there must be a list here",
		"ignore:\n- reason: a\n  name: b":     ".lockstep.yaml:2: an opt-out names its rule",
		"ignore:\n- rule: LS001\n  name: b":   ".lockstep.yaml:2: the opt-out of LS001 gives no reason",
		"ignore:\n- {rule: LS001, reason: a}": ".lockstep.yaml:2: the opt-out of LS001 names no object (kind, namespace, name); to turn a rule off, write it under rules",
		"ignore:\n- {rule: LS0, reason: a}":   `.lockstep.yaml:2: there is no rule "LS0"`,
		"ignore:\n- {rule: LS001, name: a, reason: a, expires: tomorrow}": `.lockstep.yaml:2: expires is "tomorrow", and not a date such as 2027-01-31`,
		"ignore:\n- {rule: LS001, nam: a}":                                `.lockstep.yaml:2: there is no field "nam" here; there are expires, kind, name, namespace, reason, rule`,
		"cluster: {storageClasses: gp3}":                                  ".lockstep.yaml:1: there must be a list here",
		"cluster: {kinds: [{a: b}]}":                                      ".lockstep.yaml:1: there must be a text here",
		"rules: &a {}\ncluster: *a":                                       ".lockstep.yaml:1: anchors and aliases are not supported here",
		"rules: {}\n---\nrules: {}":                                       ".lockstep.yaml: it has more than one document",
		"rules: [":                                                        ".lockstep.yaml: yaml: ",
		"text":                                                            ".lockstep.yaml:1: there must be a mapping here",
		"#" + strings.Repeat("a", maxConfig+1):                            ".lockstep.yaml: it is larger than 1024 KiB",
	} {
		_, err := ParseConfig([]byte(text))
		var refused *ConfigError
		if !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
}

// FuzzParseConfig: whatever a stranger's file holds, it is a configuration that says what it means, or an error.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("rules: {LS001: off}\nignore:\n- {rule: LS001, name: a, reason: b, expires: 2027-01-31}\ncluster: {storageClasses: [a], kinds: [b]}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("rules: !!binary aGVsbG8="))
	f.Add([]byte("ignore:\n- ? {a: b}\n  : c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		var refused *ConfigError
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("an error of another type: %T", err)
		}
		for id, severity := range c.Rules {
			if _, ok := FindRule(id); !ok || severity.rank() < 0 {
				t.Fatalf("%q: %q", id, severity)
			}
		}
		for _, i := range c.Ignore {
			if _, ok := FindRule(i.Rule); !ok || strings.TrimSpace(i.Reason) == "" || i.Kind+i.Namespace+i.Name == "" || i.Line < 1 {
				t.Fatalf("%+v", i)
			}
		}
	})
}

// TestOptOuts: each way to take responsibility holds for what it names, and for nothing else.
func TestOptOuts(t *testing.T) {
	head := join(pvc("shop", "data"), pvc("shop", "files"))
	annotated := join(pvc("shop", "data", `annotations: {lockstep.dev/ignore: "LS004: x; ls001: a cache"}`), pvc("shop", "files"))
	for name, c := range map[string]struct {
		head, config string
		// left are the findings of LS001 and LS901, by is how the others were silenced.
		left, by string
	}{
		"none":                          {head, "", "LS001 data, LS001 files", ""},
		"an annotation":                 {annotated, "", "LS001 files", "annotation: a cache"},
		"an annotation for other rules": {strings.ReplaceAll(annotated, "ls001", "LS005"), "", "LS001 data, LS001 files", ""},
		"by name":                       {head, "ignore: [{rule: LS001, name: data, reason: r}]", "LS001 files", "configuration: r"},
		"by namespace":                  {head, "ignore: [{rule: LS001, namespace: shop, reason: r}]", "", "configuration: r configuration: r"},
		"by another namespace":          {head, "ignore: [{rule: LS001, namespace: x, name: data, reason: r}]", "LS001 data, LS001 files", ""},
		"by another kind":               {head, "ignore: [{rule: LS001, kind: Secret, name: data, reason: r}]", "LS001 data, LS001 files", ""},
		"by owner":                      {head, "ignore: [{rule: LS001, kind: Kustomization, namespace: flux-system, name: apps, reason: r}]", "", "configuration: r configuration: r"},
		"by another owner":              {head, "ignore: [{rule: LS001, kind: Kustomization, namespace: flux-system, name: app, reason: r}]", "LS001 data, LS001 files", ""},
		"by another rule":               {head, "ignore: [{rule: LS002, name: data, reason: r}]", "LS001 data, LS001 files", ""},
		"on its last day":               {head, "ignore: [{rule: LS001, name: data, reason: r, expires: 2026-11-21}]", "LS001 files", "configuration: r"},
		"expired":                       {head, "ignore: [{rule: LS001, name: data, reason: r, expires: 2026-11-20}]", "LS001 data, LS001 files, LS901 data", ""},
		"expired, silenced itself":      {head, "ignore: [{rule: LS001, name: data, reason: r, expires: 2026-11-20}, {rule: LS901, name: data, reason: r}]", "LS001 data, LS001 files, LS901 data", ""},
		"off":                           {head, "rules: {LS001: off}", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := ParseConfig([]byte(c.config))
			if err != nil {
				t.Fatal(err)
			}
			r := Check(Input{Head: stateOf(t, c.head), Config: config, Now: now})
			var left, by []string
			for _, f := range r.Findings {
				if f.Rule == "LS001" || f.Rule == "LS901" {
					left = append(left, f.Rule+" "+f.Object.Name)
				}
			}
			for _, s := range r.Suppressed {
				by = append(by, s.By+": "+s.Reason)
			}
			if got := strings.Join(left, ", "); got != c.left || strings.Join(by, " ") != c.by {
				t.Errorf("left %q, silenced %q", got, by)
			}
			if r.Coverage[0].Answer != Unprotected {
				t.Error("the table says that it is protected")
			}
		})
	}
}

func TestSeverities(t *testing.T) {
	for _, c := range []struct {
		head string
		rule string
		to   Severity
		want Severity
	}{
		{pvc("shop", "data"), "LS001", Note, Note},
		{join(pvc("shop", "d"), protect()), "LS006", Error, Error},
		{join(protect(), gap("", "x")), "LS002", Warning, Note}, // not certain
		{join(protect(), gap("", "x")), "LS002", Off, Off},
	} {
		r := Check(Input{Head: stateOf(t, c.head), Now: now, Config: Config{Rules: map[string]Severity{c.rule: c.to}}})
		got := Off
		for _, f := range r.Findings {
			if f.Rule == c.rule {
				got = f.Severity
			}
		}
		if got != c.want {
			t.Errorf("%s as %s: %s, want %s", c.rule, c.to, got, c.want)
		}
	}
}

func TestBaseline(t *testing.T) {
	before := check(t, "", join(pvc("shop", "data"), pvc("shop", "files")))
	b, err := ParseBaseline(NewBaseline(before).Bytes())
	if err != nil || cmp.Diff(NewBaseline(before), b) != "" {
		t.Fatal(err)
	}
	// Lines have moved, one is gone, and one is new.
	after := check(t, "", join(other, other, pvc("shop", "data"), pvc("shop", "fresh")))
	after.Apply(b)
	if got := fmt.Sprint(found(after, "LS001")); len(after.Findings) != 1 || !strings.Contains(got, "shop/fresh") {
		t.Errorf("new: %s", got)
	}
	if len(after.Suppressed) != 1 || after.Suppressed[0].By != "baseline" || len(after.BaselineGone) != 1 || after.BaselineGone[0].Object.Name != "files" {
		t.Errorf("%+v %+v", after.Suppressed, after.BaselineGone)
	}
	// A baseline that is written anew holds what the old one hid.
	if again := NewBaseline(after); len(again.Findings) != 2 {
		t.Errorf("%+v", again)
	}
	for text, want := range map[string]string{
		`{"version": 2, "findings": []}`: "its version is 2", `{"version": 1, "more": 1}`: "unknown field", "{": "unexpected EOF", `{"version": 1, "findings": [{}]}`: "entry 1 has no fingerprint",
		`{"version": 1} {}`: "behind its end",
	} {
		if _, err := ParseBaseline([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestDocumentedConfiguration: what docs/rules.md shows is a configuration.
func TestDocumentedConfiguration(t *testing.T) {
	page, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\nrules:")
	shown, _, _ := strings.Cut(rest, "```")
	if c, err := ParseConfig([]byte("rules:" + shown)); err != nil || len(c.Ignore) != 1 || c.Cluster.Kinds == nil {
		t.Errorf("%+v, %v", c, err)
	}
	for _, r := range Rules() {
		if !strings.Contains(string(page), fmt.Sprintf("| [%s %s](../pkg/coverage/rules/%s.md) | %s | %s |\n", r.ID, r.Name, r.ID, r.Severity, r.Summary)) {
			t.Errorf("the page does not list %s as it is", r.ID)
		}
	}
}

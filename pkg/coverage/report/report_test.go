package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
)

var update = flag.Bool("update", false, "write the golden files anew")

// shop is a report as a pull request would get it.
func shop() *Document {
	at := func(file string, line int) desired.Origin { return desired.Origin{File: file, Line: line} }
	gone := coverage.Finding{
		Rule: "LS101", Severity: coverage.Error, Object: coverage.Object{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "uploads"},
		Owner: "Kustomization flux-system/shop", Origin: at("deploy/shop/uploads.yaml", 1), Gone: true, Fingerprint: "0c0ffee0",
		Message: "the claim leaves the commit, and Kustomization flux-system/shop prunes it with its data", Fix: "keep the claim, or annotate it with kustomize.toolkit.fluxcd.io/prune: disabled",
	}
	open := coverage.Finding{
		Rule: "LS001", Severity: coverage.Error, Object: coverage.Object{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: "shop", Name: "db"},
		Owner: "Kustomization flux-system/shop", Origin: at("deploy/shop/database.yaml", 12), Fingerprint: "decafbad",
		Message: "no policy selects the claims data-db-{0..2}", Fix: "add a ProtectionPolicy to namespace shop",
	}
	other := open
	other.Object.Name, other.Line, other.Message, other.Fingerprint = "queue", 40, "no policy selects the claim log-queue-0", "feedbeef"
	vaults := coverage.Finding{
		Rule: "LS004", Severity: coverage.Warning, Object: coverage.Object{APIVersion: "lockstep.dev/v1alpha1", Kind: "ProtectionPolicy", Namespace: "blog", Name: "blog"},
		Origin: at("deploy/blog/policy.yaml", 3), Fingerprint: "ba5eba11", Message: "the policy names one vault, primary", Fix: "name a second one in another place",
	}
	silenced := vaults
	silenced.Object.Name, silenced.Fingerprint = "wiki", "5ca1ab1e"
	old := open
	old.Object.Name, old.File, old.Message, old.Fingerprint = "cache", "deploy/shop/cache.yaml", "no policy selects the claim data-cache-0", "01d01d01"
	return &Document{
		Head: "1111111111111111111111111111111111111111", WorkTree: true, Base: "2222222222222222222222222222222222222222",
		Report: coverage.Report{
			Findings: []coverage.Finding{open, other, gone, vaults},
			Coverage: []coverage.Row{
				{Application: "Kustomization flux-system/blog", Namespace: "blog", Volume: "media", Size: "5Gi", Answer: coverage.Protected, Policy: "blog", RPO: "30m",
					Vaults: []string{"primary"}, Replayable: coverage.ReplayWithLockfile, Origin: at("deploy/blog/media.yaml", 1)},
				{Application: "Kustomization flux-system/shop", Namespace: "shop", Volume: "data-db-{0..2}", Size: "40Gi", Answer: coverage.Unprotected,
					Vaults: []string{}, Replayable: coverage.ReplayYes, Origin: at("deploy/shop/database.yaml", 12)},
				{Application: "HelmRelease ci/runner", Namespace: "ci", Volume: "whatever the chart runner claims", Answer: coverage.Unknown, Why: "the chart is elsewhere",
					Vaults: []string{}, Replayable: coverage.ReplayNo},
			},
			Impact: []coverage.Impact{
				{Rule: "LS101", Namespace: "shop", Volume: "uploads", Size: "40Gi", Effect: coverage.Deleted, Why: "the claim leaves the commit and is pruned", Protected: coverage.Unprotected},
				{Rule: "LS101", Namespace: "shop", Volume: "volumes that CloudNativePG makes for Cluster orders", InWords: true, Effect: coverage.MayBeDeleted, Why: "Cluster orders leaves the commit", Protected: coverage.Unknown},
				{Rule: "LS103", Namespace: "shop", Volume: "data-db-0", Effect: coverage.LeftBehind, Why: "the set has a new name", Protected: coverage.Protected},
			},
			NotRendered: []desired.Gap{{Owner: "HelmRelease ci/runner", Origin: at("deploy/ci/runner.yaml", 7), What: "chart runner", Why: "it is in another repository"}},
			Replayable:  coverage.Replayable{Answer: coverage.ReplayNo, Reasons: []string{"chart runner of HelmRelease ci/runner is in another repository"}},
			Suppressed:  []coverage.Silenced{{Finding: silenced, By: "annotation", Reason: "rebuilt from the sources each night"}},
			Existing:    []coverage.Finding{old},
		},
	}
}

// evil is every text that somebody may write into a repository to be more than text.
const evil = "x`|@octocat #1 <script>alert(1)</script> [a](javascript:b) **b** \n::error::forged\r\n##[add-mask]e\x1b[2J\u202e]]> & %0A::warning::f \x00 | \\ $a$ --> </code>"

func hostile() *Document {
	f := coverage.Finding{
		Rule: "LS001", Severity: coverage.Error, Object: coverage.Object{APIVersion: evil, Kind: evil, Namespace: evil, Name: evil}, Owner: evil,
		Origin: desired.Origin{File: "a:b/(" + evil + ").yaml", Line: 3}, Message: evil, Fix: evil, Fingerprint: "1",
	}
	return &Document{Report: coverage.Report{
		Findings:    []coverage.Finding{f},
		Coverage:    []coverage.Row{{Application: evil, Namespace: evil, Volume: evil, Size: evil, Answer: coverage.Unknown, Why: evil, Policy: evil, RPO: evil, Vaults: []string{evil}}},
		Impact:      []coverage.Impact{{Rule: "LS101", Namespace: evil, Volume: evil, Size: evil, Effect: coverage.Deleted, Why: evil}},
		NotRendered: []desired.Gap{{Owner: evil, Origin: f.Origin, What: evil, Why: evil}},
		Replayable:  coverage.Replayable{Answer: coverage.ReplayNo, Reasons: []string{evil}},
		Suppressed:  []coverage.Silenced{{Finding: f, By: "annotation", Reason: evil}},
		Existing:    []coverage.Finding{f},
	}}
}

func written(t *testing.T, f Format, d *Document, o Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, f, d, o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// pages takes the rules' own documentation out of a golden file: it changes for its own reasons.
var pages = regexp.MustCompile(`(?s)"rules": \[.*?\n          \]`)

func TestFormats(t *testing.T) {
	for _, f := range Formats {
		for name, d := range map[string]*Document{"shop": shop(), "hostile": hostile()} {
			t.Run(string(f)+" "+name, func(t *testing.T) {
				got := written(t, f, d, Options{FailOn: coverage.Error, Version: "v1", Blob: "https://github.com/acme/shop/blob/1111"})
				if f == SARIF {
					got = pages.ReplaceAllString(got, `"rules": []`)
				}
				if f == JUnit { // a suite of a rule without findings says only its name
					got = regexp.MustCompile(`(?s)  <testsuite [^>]*>\n    <testcase [^>]*></testcase>\n  </testsuite>\n`).ReplaceAllString(got, "")
					got = regexp.MustCompile(`(<testsuites [^>]*tests=)"\d+"`).ReplaceAllString(got, `$1"N"`)
				}
				golden := filepath.Join("testdata", name+"."+string(f))
				if *update {
					if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		}
	}
}

func TestUnknownFormat(t *testing.T) {
	if err := Write(io.Discard, "yaml", shop(), Options{}); err == nil {
		t.Error("an unknown format was written")
	}
}

func TestJSONIsRead(t *testing.T) {
	for _, d := range []*Document{shop(), hostile()} {
		var back Document
		if err := json.Unmarshal([]byte(written(t, JSON, d, Options{})), &back); err != nil {
			t.Fatal(err)
		}
		var first, second any
		for at, in := range map[*any]*Document{&first: d, &second: &back} {
			data, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, at); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// The schema is OASIS's, as the SARIF module brings it.
func TestSARIFIsValid(t *testing.T) {
	for name, d := range map[string]*Document{"shop": shop(), "hostile": hostile(), "empty": {}} {
		t.Run(name, func(t *testing.T) {
			data := []byte(written(t, SARIF, d, Options{}))
			known := json.NewDecoder(bytes.NewReader(data))
			known.DisallowUnknownFields()
			if err := known.Decode(&sarif.Report{}); err != nil {
				t.Error(err)
			}
			r, err := sarif.FromBytes(data)
			if err != nil {
				t.Fatal(err)
			}
			// What the module itself writes wrongly where nothing is said: the defaults of the schema.
			run := r.Runs[0]
			run.NewlineSequences, run.Language, run.Tool.Driver.Language = []string{"\r\n", "\n"}, "en-US", "en-US"
			if err := r.Validate(); err != nil {
				t.Error(err)
			}
			for _, result := range r.Runs[0].Results {
				if rule := r.Runs[0].Tool.Driver.Rules[result.RuleIndex]; *rule.ID != *result.RuleID {
					t.Errorf("a result of rule %s points to rule %s", *result.RuleID, *rule.ID)
				}
			}
		})
	}
}

func TestNoFormLetsATextBeMore(t *testing.T) {
	for _, f := range []Format{Text, Markdown, GitHub, JUnit} {
		out := written(t, f, hostile(), Options{FailOn: coverage.Error})
		for _, r := range out {
			if r != '\n' && !unicode.IsPrint(r) && r != '\ufe0f' {
				t.Errorf("%s: writes %q", f, r)
				break
			}
		}
	}
	commands := 0
	for _, line := range strings.Split(written(t, GitHub, hostile(), Options{}), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "::") {
			commands++
		} else if strings.Contains(line, "##[") {
			t.Errorf("a line that is no command holds one of the old form: %q", line)
		}
	}
	if commands != 2 {
		t.Errorf("%d commands of one finding and one gap", commands)
	}
	for _, line := range strings.Split(written(t, Text, hostile(), Options{}), "\n") {
		if strings.HasPrefix(line, "::") {
			t.Errorf("a line begins with a command: %q", line)
		}
	}
	page := written(t, Markdown, hostile(), Options{Blob: "https://example.com/b"})
	for _, bad := range []string{"<script", "@octocat", "&#64;octocat #", " #1", "**b**", "](javascript", "`|", "$a$"} {
		// Within code neither mentions nor issues are looked for.
		if strings.Contains(regexp.MustCompile(`<code>[^<]*</code>`).ReplaceAllString(page, ""), bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	for _, line := range strings.Split(page, "\n") {
		if strings.HasPrefix(line, "| unknown") || strings.HasPrefix(line, "::") {
			t.Errorf("a line begins with %.20q", line)
		}
	}
	d := xml.NewDecoder(strings.NewReader(written(t, JUnit, hostile(), Options{FailOn: coverage.Error})))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// many is a document with n findings, rows, effects and gaps.
func many(n int) *Document {
	d := shop()
	out := &Document{Report: coverage.Report{Replayable: d.Replayable}}
	for i := range n {
		f := d.Findings[0]
		f.Object.Name = fmt.Sprintf("db-%d", i)
		out.Findings = append(out.Findings, f)
		out.Coverage = append(out.Coverage, d.Coverage[i%3])
		out.Impact = append(out.Impact, d.Impact[i%2])
		out.NotRendered = append(out.NotRendered, d.NotRendered[0])
	}
	return out
}

func TestMarkdownIsBounded(t *testing.T) {
	for _, limit := range []int{0, 65_000, 4096} {
		page := written(t, Markdown, many(20_000), Options{Limit: limit})
		want := limit
		if want == 0 {
			want = MaxSummary
		}
		if len(page) > want {
			t.Errorf("limit %d: %d bytes", want, len(page))
		}
		if !strings.Contains(page, "more, for which there is no room") || !strings.Contains(page, "20000 errors") || !strings.Contains(page, "**Replayable:** no") {
			t.Errorf("limit %d: the page does not say what it leaves out, or lacks its end", want)
		}
	}
	if page := written(t, Markdown, many(3), Options{}); strings.Contains(page, "no room") {
		t.Error("a short page leaves something out")
	}
}

func TestTenAnnotationsOfAKind(t *testing.T) {
	d := many(25)
	for i := range 4 {
		f := d.Findings[0]
		f.Severity, f.Rule = coverage.Warning, "LS004"
		f.Line = i
		d.Findings = append(d.Findings, f)
	}
	out := written(t, GitHub, d, Options{})
	if e, w := strings.Count(out, "::error "), strings.Count(out, "::warning "); e != 10 || w != 4 {
		t.Errorf("%d errors and %d warnings", e, w)
	}
	if !strings.Contains(out, "\n15 findings more of severity error\n") {
		t.Errorf("does not say how many are left out:\n%s", out)
	}
}

// TestWhatIsFoundInSeveralClustersIsSaidOnce wants one place for what both clusters deploy, with both of them named.
func TestWhatIsFoundInSeveralClustersIsSaidOnce(t *testing.T) {
	d := shop()
	in := d.Findings[0]
	d.Findings = nil
	for _, cluster := range []string{"production", "staging"} {
		in.Owner = "Kustomization flux-system/shop (clusters/" + cluster + ")"
		d.Findings = append(d.Findings, in)
	}
	other := in
	other.Line++
	d.Findings = append(d.Findings, other)
	for f, said := range map[Format]int{Text: 2, Markdown: 2, GitHub: 2, SARIF: 2, JUnit: 2 * 2} { // JUnit has it as an attribute, too
		out := written(t, f, d, Options{FailOn: coverage.Error})
		message := in.Message
		if f != Text {
			message = sentence(message)
		}
		if f == Markdown {
			message = md(message)
		}
		if got := strings.Count(out, message); got != said {
			t.Errorf("%s: two places are told %d times in\n%s", f, got, out)
		}
		both := "in Kustomization flux-system/shop (clusters/production), Kustomization flux-system/shop (clusters/staging)"
		if f != Text {
			both = sentence(both)
		}
		if f == Markdown {
			both = md(both)
		}
		if got := strings.Count(out, both); got != said/2 {
			t.Errorf("%s: the clusters are named %d times in\n%s", f, got, out)
		}
	}
	if !strings.Contains(written(t, Text, d, Options{FailOn: coverage.Error}), "\nfailed: 2 errors") {
		t.Error("they are not counted once")
	}
}

// TestWhatWasThereBefore wants it told, and counted for nothing.
func TestWhatWasThereBefore(t *testing.T) {
	d := shop()
	d.Existing, d.Findings, d.NotRendered, d.Suppressed = d.Findings[:2], nil, nil, nil
	if d.Fails(coverage.Note) {
		t.Error("what was there before fails the check")
	}
	for f, want := range map[Format]string{
		Text: "There before\n  LS001 uncovered-volume (2)\n", Markdown: "## ✅ Nothing new found\n\n`lockstep check`: nothing new found (2 there before)", GitHub: "nothing new found (2 there before)",
		JUnit: `<skipped message="there before the change: No policy`, SARIF: `"baselineState": "unchanged"`, JSON: `"existing": [
    {`,
	} {
		if out := written(t, f, d, Options{FailOn: coverage.Note}); !strings.Contains(out, want) {
			t.Errorf("%s: lacks %q:\n%s", f, want, out)
		}
	}
}

// TestCovered: nothing is said to be covered because it was known to be open.
func TestCovered(t *testing.T) {
	protected := shop().Coverage[:1]
	for name, tt := range map[string]struct {
		change func(*Document)
		want   bool
	}{
		"all":                  {func(*Document) {}, true},
		"left out of policies": {func(d *Document) { d.Coverage[0].Answer = coverage.Excluded }, true},
		"a silenced volume":    {func(d *Document) { d.Coverage[0].Answer = coverage.Unprotected }, false},
		"a volume not known":   {func(d *Document) { d.Coverage[0].Answer = coverage.Unknown }, false},
		"a part not rendered":  {func(d *Document) { d.NotRendered = shop().NotRendered }, false},
		"a part not judged":    {func(d *Document) { d.Unchanged = []string{"Directory shop"} }, false},
		"an old finding":       {func(d *Document) { d.Existing = shop().Existing }, false},
	} {
		d := &Document{Report: coverage.Report{Coverage: []coverage.Row{protected[0]}}}
		tt.change(d)
		if got := strings.HasPrefix(written(t, Markdown, d, Options{FailOn: coverage.Error}), "## ✅ Data is covered\n"); got != tt.want {
			t.Errorf("%s: covered is %v", name, got)
		}
	}
}

// TestALongTextEndsWithWhatCounts: what fails is told whole, of the rest ten of a rule, and the end has the counts.
func TestALongTextEndsWithWhatCounts(t *testing.T) {
	d := many(15)
	d.Coverage, d.NotRendered, d.Impact = nil, nil, nil
	for i := range 40 {
		f := shop().Findings[3]
		f.Object.Name = fmt.Sprintf("policy-%d", i)
		d.Findings = append(d.Findings, f)
	}
	out := written(t, Text, d, Options{FailOn: coverage.Error})
	if got := strings.Count(out, "StatefulSet shop/db-"); got != 15 {
		t.Errorf("%d of 15 that fail are told", got)
	}
	if got := strings.Count(out, "ProtectionPolicy blog/policy-"); got != 10 || !strings.Contains(out, "\n  … and 30 more: --format json has them all\n") {
		t.Errorf("%d of 40 that do not fail are told:\n%s", got, out)
	}
	if got := strings.Count(out, "  fix: "); got != 2 {
		t.Errorf("two fixes are told %d times", got)
	}
	const end = "Found\n  15   error     LS001 uncovered-volume   no policy selects the volume\n  40   warning   LS004 no-offsite-copy    the points are in one vault only\n\nfailed: 15 errors, 40 warnings\n"
	if !strings.HasSuffix(out, end) {
		t.Errorf("the end is not %q:\n%s", end, out)
	}
	if got := strings.Count(written(t, Text, d, Options{FailOn: coverage.Warning}), "ProtectionPolicy blog/policy-"); got != 40 {
		t.Errorf("%d of 40 that fail are told", got)
	}
}

func TestColourOnlyWhereAsked(t *testing.T) {
	if out := written(t, Text, shop(), Options{}); strings.Contains(out, "\x1b") {
		t.Error("colours where none were asked for")
	}
	if out := written(t, Text, shop(), Options{Colour: true}); !strings.Contains(out, "\x1b[31;1merror\x1b[0m LS001") {
		t.Errorf("no colours:\n%s", out)
	}
}

func TestFails(t *testing.T) {
	d := &Document{}
	d.Findings = shop().Findings[3:] // a warning
	for on, want := range map[coverage.Severity]bool{coverage.Error: false, coverage.Warning: true, coverage.Note: true, coverage.Off: false} {
		if got := d.Fails(on); got != want {
			t.Errorf("on %s: %v", on, got)
		}
	}
}

// TestUnchecked: no form lets a report of nothing pass for a good one, and each names what was not rendered.
func TestUnchecked(t *testing.T) {
	d := &Document{Unchecked: true}
	for range 12 {
		d.NotRendered = append(d.NotRendered, desired.Gap{Origin: desired.Origin{File: "shop/kustomization.yaml", Line: 1}, What: "Directory shop", Why: "plugins are not run"})
	}
	for f, want := range map[Format][]string{
		Text:     {"Directory shop", "plugins are not run", "\ncould not be checked, as nothing could be rendered; 12 parts"},
		JSON:     {`"unchecked": true`, `"what": "Directory shop"`},
		Markdown: {"## ❌ Could not be checked", "plugins are not run"},
		SARIF:    {`"executionSuccessful": false`, "plugins are not run"},
		JUnit:    {`errors="12"`, `<error message="not rendered: plugins are not run"`},
		GitHub:   {"::notice title=Not rendered,file=shop/kustomization.yaml,line=1::Directory shop: plugins are not run", "\n2 more parts were not rendered\n", "could not be checked"},
	} {
		out := written(t, f, d, Options{FailOn: coverage.Off})
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("%s does not have %q:\n%s", f, text, out)
			}
		}
		if strings.Contains(strings.ToLower(out), "nothing found") || strings.Contains(out, "✅") {
			t.Errorf("%s is of a good one:\n%s", f, out)
		}
	}
}

// What a vault has said of the commit has a column of its own, if one was asked.
func TestRestorableToday(t *testing.T) {
	d := shop()
	for _, f := range []Format{Text, Markdown} {
		if out := written(t, f, d, Options{}); strings.Contains(strings.ToLower(out), "restorable today") {
			t.Errorf("%s: no vault was asked:\n%s", f, out)
		}
	}
	d.Coverage = append(d.Coverage, d.Coverage[0], d.Coverage[0])
	for i, p := range []*coverage.PointFacts{{Found: "found", ID: "20260301-040000-1a2b3c4d", Match: "Exact"}, nil, {Found: "unknown"}, {Found: "absent"}, {Found: "found", ID: "p", Match: "SameTree"}} {
		d.Coverage[i].Point = p
	}
	for f, want := range map[Format][]string{
		Text:     {"REPLAYABLE        RESTORABLE TODAY\n", "from 20260301-040000-1a2b3c4d\n", "yes               -\n", "not known\n", "NO\n", "from p (SameTree)\n"},
		Markdown: {"| Replayable | Restorable today |\n", "| from 20260301-040000-1a2b3c4d |\n", "| yes | – |\n", "| not known |\n", "| NO |\n", "| from p &#40;SameTree&#41; |\n"},
	} {
		out := written(t, f, d, Options{})
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s does not say %q:\n%s", f, w, out)
			}
		}
	}
}

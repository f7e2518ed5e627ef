package checker

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// repository is a work tree with files, and how to change it.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T, files map[string]string) *repository {
	t.Helper()
	r := &repository{t, t.TempDir()}
	r.write(files)
	r.git("init", "-q", "-b", "main")
	r.commit()
	return r
}

func (r *repository) write(files map[string]string) {
	r.t.Helper()
	for name, text := range files {
		file := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *repository) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "change")
	return r.git("rev-parse", "HEAD")
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repository) check(q Request) *Result {
	r.t.Helper()
	if q.Path == "" {
		q.Path = r.dir
	}
	q.Now = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	result, err := Check(r.t.Context(), q)
	if err != nil {
		r.t.Fatal(err)
	}
	return result
}

func volumes(result *Result) []string {
	var all []string
	for _, row := range result.Document.Coverage {
		all = append(all, row.Namespace+"/"+row.Volume+" "+string(row.Answer))
	}
	slices.Sort(all)
	return all
}

func rules(result *Result) []string {
	var all []string
	for _, f := range result.Document.Findings {
		all = append(all, f.Rule+" "+f.File)
	}
	return slices.Compact(slices.Sorted(slices.Values(all)))
}

func claim(name string) string {
	return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name + ", namespace: shop}\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 5Gi}}\n"
}

const policy = "apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nmetadata: {name: shop, namespace: shop}\nspec: {vaults: [primary, offsite], schedule: \"*/30 * * * *\"}\n"

func TestWhatLiesInTheWorkTreeCounts(t *testing.T) {
	r := newRepository(t, map[string]string{"deploy/data.yaml": claim("data")})
	r.write(map[string]string{"deploy/more.yaml": claim("more")})
	if got := volumes(r.check(Request{})); !slices.Equal(got, []string{"shop/data unprotected", "shop/more unprotected"}) {
		t.Errorf("of the work tree: %q", got)
	}
	result := r.check(Request{Head: "HEAD"})
	if got := volumes(result); !slices.Equal(got, []string{"shop/data unprotected"}) {
		t.Errorf("of the commit: %q", got)
	}
	if d := result.Document; d.WorkTree || d.Head != r.git("rev-parse", "HEAD") || result.Baseline != "" {
		t.Errorf("the document is of %q, work tree %v; the baseline is %q", d.Head, d.WorkTree, result.Baseline)
	}
}

func TestOnlyTheDirectoryIsJudged(t *testing.T) {
	r := newRepository(t, map[string]string{"one/data.yaml": claim("data"), "two/more.yaml": claim("more")})
	result := r.check(Request{Path: filepath.Join(r.dir, "two")})
	if got := volumes(result); !slices.Equal(got, []string{"shop/more unprotected"}) {
		t.Errorf("the volumes are %q", got)
	}
	if got := rules(result); !slices.Equal(got, []string{"LS001 two/more.yaml"}) {
		t.Errorf("the findings are %q", got)
	}
	r.write(map[string]string{"three/new.yaml": claim("new")})
	if got := r.check(Request{Path: filepath.Join(r.dir, "three"), Base: "HEAD"}); len(got.Document.Impact) != 0 {
		t.Errorf("a directory that the base has not: %+v", got.Document.Impact)
	}
}

func TestWhatIsTheSameInBothIsNotJudged(t *testing.T) {
	other := strings.ReplaceAll(claim("data"), "namespace: shop", "namespace: blog")
	r := newRepository(t, map[string]string{"one/data.yaml": other, "two/more.yaml": claim("more"), "two/policy.yaml": policy})
	base := r.git("rev-parse", "HEAD")
	r.write(map[string]string{"two/new.yaml": claim("new")})
	result := r.check(Request{Base: base})
	if got := volumes(result); !slices.Equal(got, []string{"shop/more protected", "shop/new protected"}) {
		t.Errorf("the volumes are %q", got)
	}
	if got := result.Document.Unchanged; !slices.Equal(got, []string{"Directory one"}) {
		t.Errorf("unchanged: %q", got)
	}
}

// The policy is in a directory that did not change: it must be known in both commits.
func TestWhatDidNotChangeIsKnown(t *testing.T) {
	r := newRepository(t, map[string]string{"policies/shop.yaml": policy, "apps/data.yaml": claim("data"), "apps/log.yaml": claim("log")})
	base := r.git("rev-parse", "HEAD")
	if err := os.Remove(filepath.Join(r.dir, "apps/log.yaml")); err != nil {
		t.Fatal(err)
	}
	result := r.check(Request{Base: base})
	if got := volumes(result); !slices.Equal(got, []string{"shop/data protected"}) {
		t.Errorf("the volumes are %q", got)
	}
	if got := rules(result); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "LS001") || strings.HasPrefix(s, "LS107") }) {
		t.Errorf("the findings are %q", got)
	}
	if i := result.Document.Impact; len(i) != 1 || i[0].Volume != "log" || i[0].Protected != coverage.Protected {
		t.Errorf("the impact is %+v", i)
	}
}

// TestAClaimOfWhatDidNotChange: what the same application in both commits brings is not of elsewhere.
func TestAClaimOfWhatDidNotChange(t *testing.T) {
	pod := func(image string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec: {containers: [{name: web, image: " + image + "}], volumes: [{name: a, persistentVolumeClaim: {claimName: data}}]}\n"
	}
	r := newRepository(t, map[string]string{"data/data.yaml": claim("data"), "web/web.yaml": pod("web:1")})
	r.write(map[string]string{"web/web.yaml": pod("web:2")})
	result := r.check(Request{Base: "HEAD"})
	if got := rules(result); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "LS001 web") }) {
		t.Errorf("the findings are %q", got)
	}
	if err := os.Remove(filepath.Join(r.dir, "data/data.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := rules(r.check(Request{})); !slices.Contains(got, "LS001 web/web.yaml") {
		t.Errorf("without the claim the findings are %q", got)
	}
}

// TestASourceOfWhatIsBroken: what cannot be rendered does not make the repository another one.
func TestASourceOfWhatIsBroken(t *testing.T) {
	kustomization := func(name, path, source string) string {
		return "---\napiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: " + name + ", namespace: flux-system}\nspec: {path: " + path + ", prune: true, sourceRef: {kind: GitRepository, name: " + source + "}}\n"
	}
	source := func(name, url string) string {
		return "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: " + name + ", namespace: flux-system}\nspec: {url: \"" + url + "\", ref: {branch: main}}\n"
	}
	const here, there = "https://git.example.com/fleet", "https://git.example.com/other"
	r := newRepository(t, map[string]string{
		"clusters/p/flux-system/sync.yaml": source("flux-system", here) + kustomization("flux-system", "./clusters/p", "flux-system"),
		"clusters/p/apps.yaml":             source("apps", here) + kustomization("apps", "./apps", "apps") + source("other", there) + kustomization("other", "./other", "other"),
		"apps/kustomization.yaml":          "resources: [gone.yaml]\n",
	})
	var found []string
	for _, f := range r.check(Request{}).Document.Findings {
		if f.Rule == "LS302" {
			found = append(found, f.Object.Name)
		}
	}
	if !slices.Equal(found, []string{"other"}) {
		t.Errorf("taken for other repositories: %q", found)
	}
}

func TestBaseIsWhereTheHeadHasLeftIt(t *testing.T) {
	r := newRepository(t, map[string]string{"apps/data.yaml": claim("data")})
	fork := r.git("rev-parse", "HEAD")
	r.git("checkout", "-q", "-b", "change")
	r.write(map[string]string{"apps/mine.yaml": claim("mine")})
	r.commit()
	r.git("checkout", "-q", "main")
	r.write(map[string]string{"apps/theirs.yaml": claim("theirs")})
	r.commit()
	r.git("checkout", "-q", "change")
	result := r.check(Request{Base: "main"})
	if result.Document.Base != fork || len(result.Document.Impact) != 0 {
		t.Errorf("compared with %s, want %s; the impact is %+v", result.Document.Base, fork, result.Document.Impact)
	}
}

func TestSettingsLeadNowhereElse(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("rules: {LS001: off}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{coverage.ConfigName, BaselineName} {
		r := newRepository(t, map[string]string{"data.yaml": claim("data")})
		if err := os.Symlink(secret, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Check(t.Context(), Request{Path: r.dir}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s that is a link: %v", name, err)
		}
	}
	r := newRepository(t, map[string]string{"data.yaml": claim("data")})
	if got := rules(r.check(Request{Config: secret})); slices.Contains(got, "LS001 data.yaml") {
		t.Errorf("with a configuration that is named: %q", got)
	}
}

func TestCannotBeChecked(t *testing.T) {
	r := newRepository(t, map[string]string{"data.yaml": claim("data")})
	plain := t.TempDir()
	for name, q := range map[string]Request{
		"no directory":          {Path: filepath.Join(r.dir, "none")},
		"a file":                {Path: filepath.Join(r.dir, "data.yaml")},
		"no such head":          {Path: r.dir, Head: "none"},
		"no such base":          {Path: r.dir, Base: "none"},
		"a base outside of Git": {Path: plain, Base: "HEAD"},
		"a head outside of Git": {Path: plain, Head: "HEAD"},
		"no such configuration": {Path: r.dir, Config: "none"},
		"no such baseline":      {Path: r.dir, Baseline: "none"},
	} {
		if got, err := Check(t.Context(), q); err == nil {
			t.Errorf("%s: %+v", name, got.Document)
		}
	}
}

// inflated is a kustomization of which only a plugin makes objects.
const inflated = "helmCharts:\n- {name: shop, repo: https://charts.example.com, version: 1.0.0}\n"

// TestNothingRenderedIsNotChecked: that nothing was found says nothing where nothing was seen.
func TestNothingRenderedIsNotChecked(t *testing.T) {
	for name, c := range map[string]struct {
		before, after map[string]string
		live          *coverage.Live
		want          bool
	}{
		"all by plugins":                      {before: map[string]string{"shop/kustomization.yaml": inflated}, want: true},
		"an engine's plugin":                  {before: map[string]string{"app.yaml": "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: shop, namespace: argocd}\nspec:\n  source: {repoURL: \"https://git.example.com/shop\", path: shop, plugin: {name: cmp}}\n  destination: {namespace: shop}\n"}, want: true},
		"one of two":                          {before: map[string]string{"shop/kustomization.yaml": inflated, "blog/data.yaml": claim("data")}},
		"one of two, the same as before":      {before: map[string]string{"shop/kustomization.yaml": "resources: []\n", "blog/data.yaml": claim("data")}, after: map[string]string{"shop/kustomization.yaml": inflated}},
		"all by plugins, the same and a new":  {before: map[string]string{"shop/kustomization.yaml": inflated}, after: map[string]string{"blog/kustomization.yaml": inflated}, want: true},
		"all by plugins, with a cluster":      {before: map[string]string{"shop/kustomization.yaml": inflated}, live: &coverage.Live{}},
		"all by plugins, and that is no news": {before: map[string]string{"shop/kustomization.yaml": inflated}, after: map[string]string{"README": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t, c.before)
			q := Request{Live: c.live}
			if c.after != nil {
				q.Base = "HEAD"
				r.write(c.after)
			}
			d := r.check(q).Document
			if d.Unchecked != c.want {
				t.Errorf("unchecked: %v; not rendered: %+v", d.Unchecked, d.NotRendered)
			}
			if len(d.NotRendered) == 0 && len(d.Unchanged) == 0 {
				t.Error("nothing is named as not rendered")
			}
		})
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	r := newRepository(t, map[string]string{"apps/data.yaml": claim("data")})
	r.check(Request{Head: "HEAD", Base: "HEAD"})
	if _, err := Check(t.Context(), Request{Path: r.dir, Head: "HEAD", Base: "none"}); err == nil {
		t.Error("compared with a commit that there is not")
	}
	left, err := filepath.Glob(filepath.Join(temp, "lockstep-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What only comes when it is wanted must be there for everybody who wants it, the chart's loader and Flux's generator among them.
func TestFilesOfACommitAreFound(t *testing.T) {
	owner := func(kind, name, spec string) string {
		return "apiVersion: " + kind[:strings.Index(kind, " ")] + "\nkind: " + kind[strings.Index(kind, " ")+1:] + "\nmetadata: {name: " + name + ", namespace: flux-system}\nspec: " + spec + "\n"
	}
	const source = "sourceRef: {kind: GitRepository, name: flux-system}"
	const flux, helm = "kustomize.toolkit.fluxcd.io/v1 Kustomization", "helm.toolkit.fluxcd.io/v2 HelmRelease"
	files := map[string]string{
		"clusters/prod/flux-system/sync.yaml": owner(flux, "flux-system", "{path: ./clusters/prod, prune: true, "+source+"}"),
		"clusters/prod/apps.yaml": owner(flux, "plain", "{path: ./plain, prune: true, targetNamespace: shop, "+source+"}") + "---\n" +
			owner(flux, "built", "{path: ./built/overlay, prune: true, "+source+"}") + "---\n" +
			owner(helm, "chart", "{interval: 1h, chart: {spec: {chart: ./chart, "+source+"}}}"),
		"plain/one/data.yaml":               claim("plain"),
		"built/base/data.yaml":              claim("built"),
		"built/base/kustomization.yaml":     "resources: [data.yaml]\n",
		"built/overlay/kustomization.yaml":  "resources: [../base]\nconfigMapGenerator: [{name: settings, files: [settings.ini]}]\n",
		"built/overlay/settings.ini":        "a=b\n",
		"chart/Chart.yaml":                  "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
		"chart/values.yaml":                 "name: chart\n",
		"chart/templates/data.yaml":         claim("{{ .Values.name }}"),
		"chart/templates/_nothing.tpl":      "",
		"elsewhere/not-deployed/other.yaml": claim("other"),
	}
	want := []string{"shop/built unprotected", "shop/chart unprotected", "shop/plain unprotected"}
	r := newRepository(t, files)
	for name, q := range map[string]Request{"the work tree": {}, "the commit": {Head: "HEAD"}} {
		result := r.check(q)
		if got := volumes(result); !slices.Equal(got, want) || len(result.Document.NotRendered) > 0 {
			t.Errorf("%s: the volumes are %q, not rendered %+v", name, got, result.Document.NotRendered)
		}
	}
	for file, lost := range map[string]string{"plain/one/data.yaml": "plain", "chart/values.yaml": "chart"} {
		r.write(map[string]string{file: "{}\n"})
		d := r.check(Request{Base: "HEAD"}).Document
		var impact []string
		for _, i := range d.Impact {
			impact = append(impact, i.Volume)
		}
		if !slices.Contains(impact, lost) {
			t.Errorf("%s changed: the impact is %q", file, impact)
		}
		r.write(files)
		if d := r.check(Request{Base: "HEAD"}).Document; len(d.Impact) > 0 || len(d.Unchanged) != 4 {
			t.Errorf("nothing changed: the impact is %+v, unchanged %q", d.Impact, d.Unchanged)
		}
	}
}

// Whether a policy protects what changed is asked of everything that may have one: not of what is all in another namespace.
func TestWhatIsInAnotherNamespaceIsNotAsked(t *testing.T) {
	for extra, want := range map[string][]string{
		"": {"Directory one"},
		"patchesJson6902: [{target: {version: v1, kind: PersistentVolumeClaim, name: data}, patch: '[{\"op\": \"replace\", \"path\": \"/metadata/namespace\", \"value\": \"shop\"}]'}]\n": {},
	} {
		r := newRepository(t, map[string]string{
			"one/kustomization.yaml": "namespace: blog\nresources: [data.yaml]\n" + extra, "one/data.yaml": claim("data"),
			"two/kustomization.yaml": "namespace: shop\nresources: [more.yaml]\n", "two/more.yaml": claim("more"),
		})
		r.write(map[string]string{"two/more.yaml": claim("new")})
		if got := r.check(Request{Base: "HEAD"}).Document.Unchanged; !slices.Equal(got, want) {
			t.Errorf("with %q: unchanged %q, want %q", extra, got, want)
		}
	}
}

func existing(result *Result) []string {
	var all []string
	for _, f := range result.Document.Existing {
		all = append(all, f.Rule+" "+f.Object.Name)
	}
	return all
}

func found(result *Result) []string {
	var all []string
	for _, f := range result.Document.Findings {
		all = append(all, f.Rule+" "+f.Object.Name)
	}
	return all
}

func TestWhatTheChangeDoesNotBringIsNotHeldAgainstIt(t *testing.T) {
	const accepted = "ignore:\n- {rule: LS001, kind: PersistentVolumeClaim, name: data, reason: a cache}\n"
	cache := strings.ReplaceAll(claim("data"), "{name: data,", "{name: data, annotations: {lockstep.dev/ignore: \"LS001: a cache\"},")
	for name, tt := range map[string]struct {
		before, after   map[string]string
		found, existing []string
	}{
		"more of the same": {map[string]string{"deploy/data.yaml": claim("data")}, map[string]string{"deploy/more.yaml": claim("more")},
			[]string{"LS001 more"}, []string{"LS001 data"}},
		"another file": {map[string]string{"deploy/data.yaml": claim("data")}, map[string]string{"deploy/data.yaml": "", "deploy/moved.yaml": claim("data")},
			nil, []string{"LS001 data"}},
		"another directory, which is another application": {map[string]string{"deploy/data.yaml": claim("data")}, map[string]string{"deploy/data.yaml": "", "new/data.yaml": claim("data")},
			[]string{"LS001 data"}, nil},
		"the policy goes": {map[string]string{"deploy/data.yaml": claim("data"), "policies/shop.yaml": policy}, map[string]string{"policies/shop.yaml": ""},
			[]string{"LS107 data"}, nil},
		"the reason goes": {map[string]string{"deploy/data.yaml": cache}, map[string]string{"deploy/data.yaml": claim("data")},
			[]string{"LS001 data"}, nil},
		"the reason in the configuration goes": {map[string]string{"deploy/data.yaml": claim("data"), ".lockstep.yaml": accepted}, map[string]string{"deploy/data.yaml": claim("data") + "---\n", ".lockstep.yaml": ""},
			[]string{"LS001 data"}, nil},
		"a configuration that could not be read is mended": {map[string]string{"deploy/data.yaml": claim("data"), ".lockstep.yaml": "ignore: none\n"}, map[string]string{"deploy/data.yaml": claim("data") + "---\n", ".lockstep.yaml": ""},
			nil, []string{"LS001 data"}},
		"the rule is taken more seriously": {map[string]string{"deploy/data.yaml": claim("data"), ".lockstep.yaml": "rules: {LS001: note}\n"}, map[string]string{"deploy/data.yaml": claim("data") + "---\n", ".lockstep.yaml": ""},
			[]string{"LS001 data"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t, tt.before)
			base := r.git("rev-parse", "HEAD")
			r.write(tt.after)
			result := r.check(Request{Base: base})
			if got := found(result); !slices.Equal(got, tt.found) {
				t.Errorf("found: %q", got)
			}
			if got := existing(result); !slices.Equal(got, tt.existing) {
				t.Errorf("existing: %q", got)
			}
			// Without a base all of it counts.
			if got := r.check(Request{}); len(got.Document.Existing) != 0 || len(got.Document.Findings) == 0 {
				t.Errorf("without a base: %+v", got.Document.Report)
			}
		})
	}
}

func TestABaselineIsNotOutOfDateWhereNotAllWasJudged(t *testing.T) {
	r := newRepository(t, map[string]string{"one/data.yaml": strings.ReplaceAll(claim("data"), "namespace: shop", "namespace: blog"), "two/more.yaml": claim("more"), "two/policy.yaml": policy})
	result := r.check(Request{})
	r.write(map[string]string{BaselineName: string(coverage.NewBaseline(result.Document.Report).Bytes())})
	base := r.commit()
	r.write(map[string]string{"two/other.yaml": claim("other")})
	if d := r.check(Request{Base: base}).Document; len(d.BaselineGone) != 0 || len(d.Unchanged) != 1 {
		t.Errorf("gone: %+v; unchanged: %q", d.BaselineGone, d.Unchanged)
	}
	r.write(map[string]string{"one/data.yaml": ""})
	if d := r.check(Request{}).Document; len(d.BaselineGone) != 1 {
		t.Errorf("gone: %+v", d.BaselineGone)
	}
}

// A vault is asked for each cluster's own application where several deploy a policy of one name.
func TestPoliciesOfClusters(t *testing.T) {
	files := map[string]string{}
	for _, cluster := range []string{"production", "staging"} {
		files["clusters/"+cluster+"/shop.yaml"] = `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop, namespace: flux-system}
spec: {path: ./apps/` + cluster + `, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`
		files["clusters/"+cluster+"/flux-system/sync.yaml"] = `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: flux-system, namespace: flux-system}
spec: {url: https://git.example.com/fleet.git, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux-system, namespace: flux-system}
spec: {path: ./clusters/` + cluster + `, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`
		files["apps/"+cluster+"/policy.yaml"] = "apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nmetadata: {name: shop, namespace: shop}\nspec: {vaults: [primary]}\n"
	}
	files["apps/production/other.yaml"] = "apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nmetadata: {name: other, namespace: shop}\nspec: {vaults: [primary]}\n"
	r := newRepository(t, files)
	r.git("remote", "add", "origin", "https://git.example.com/fleet.git")
	var got []Policy
	_, err := Check(t.Context(), Request{Path: r.dir, Points: func(_ context.Context, at Commit) ([]coverage.PointFacts, error) {
		got = at.Policies
		return nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Policy{
		{Name: object.Name{Namespace: "shop", Name: "other"}},
		{Name: object.Name{Namespace: "shop", Name: "shop"}, Owner: "Kustomization flux-system/shop (clusters/production)", Path: "apps/production"},
		{Name: object.Name{Namespace: "shop", Name: "shop"}, Owner: "Kustomization flux-system/shop (clusters/staging)", Path: "apps/staging"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("the vault is asked for %+v", got)
	}
}

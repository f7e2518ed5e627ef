package git

import (
	"strings"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// TestDeployed changes one file after the other, and asks whether that changes what a path deploys.
func TestDeployed(t *testing.T) {
	const overlay = "shop/overlays/prod"
	kustomized := func(more map[string]string) map[string]string {
		files := map[string]string{overlay + "/kustomization.yaml": "resources: [db.yaml]\n", overlay + "/db.yaml": "kind: ConfigMap\n"}
		for name, content := range more {
			files[name] = content
		}
		return files
	}
	const release = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec:\n  chart:\n    spec:\n      "
	tests := map[string]struct {
		files          map[string]string
		counts, others []string
		git            bool
	}{
		"nothing outside": {kustomized(nil), []string{overlay + "/db.yaml"}, []string{"shop/base/a.yaml", "README.md"}, true},
		"dots that are no path": {kustomized(map[string]string{overlay + "/db.yaml": "text: wait... 1..2\nre: a..b/c\n"}),
			[]string{overlay + "/db.yaml"}, []string{"shop/base/a.yaml"}, true},
		"a path that stays inside": {kustomized(map[string]string{overlay + "/x/kustomization.yaml": "resources: [../db.yaml]"}),
			[]string{overlay + "/db.yaml"}, []string{"shop/base/a.yaml"}, true},
		"a base": {kustomized(map[string]string{overlay + "/kustomization.yaml": "resources:\n- ../../base\n", "shop/base/a.yaml": "a"}),
			[]string{overlay + "/db.yaml", "shop/base/a.yaml"}, []string{"shop/other/a.yaml", "cart/a.yaml"}, false},
		"a base of a base": {kustomized(map[string]string{overlay + "/kustomization.yaml": "resources:\n- \"../../base/\"\n",
			"shop/base/kustomization.yml": "components: ['../../common/db']", "common/db/a.yaml": "a", "common/b.yaml": "b"}),
			[]string{"shop/base/a.yaml", "common/db/a.yaml"}, []string{"common/b.yaml"}, false},
		"a file": {kustomized(map[string]string{overlay + "/kustomization.yaml": "configMapGenerator: [{name: a, files: [x=../../x.conf]}]", "shop/x.conf": "x"}),
			[]string{"shop/x.conf"}, []string{"shop/y.conf"}, false},
		"a directory above": {kustomized(map[string]string{overlay + "/kustomization.yaml": "resources: [../..]", "shop/kustomization.yaml": ""}),
			[]string{"shop/a.yaml"}, []string{"cart/a.yaml"}, false},
		"all":               {kustomized(map[string]string{overlay + "/kustomization.yaml": "resources: [../../..]"}), []string{"cart/a.yaml", "README.md"}, nil, false},
		"what is not there": {kustomized(map[string]string{overlay + "/kustomization.yaml": "resources: [../../gone]"}), []string{"cart/a.yaml"}, nil, false},
		"a transformer's file": {kustomized(map[string]string{overlay + "/kustomization.yaml": "transformers: [t]", overlay + "/t/patch.yaml": "path: ../../patch.yaml",
			"shop/patch.yaml": "p"}), []string{"shop/patch.yaml"}, []string{"shop/a.yaml"}, false},
		"a chart in the repository": {kustomized(map[string]string{overlay + "/db.yaml": release + "chart: ./charts/db\n", "charts/db/Chart.yaml": "name: db"}),
			[]string{"charts/db/templates/a.yaml"}, []string{"charts/web/Chart.yaml"}, false},
		"a chart in the first directory": {kustomized(map[string]string{overlay + "/db.yaml": release + "chart: chart\n", "chart/Chart.yaml": "name: db"}),
			[]string{"chart/values.yaml"}, []string{"charts/web/Chart.yaml"}, false},
		"its values and its dependency": {kustomized(map[string]string{overlay + "/db.yaml": release + "chart: charts/db\n      valuesFiles: [values/prod.yaml, top.yaml]\n",
			"charts/db/Chart.yaml": "dependencies: [{name: lib, repository: \"file://../lib\"}]", "charts/lib/Chart.yaml": "name: lib", "values/prod.yaml": "", "top.yaml": ""}),
			[]string{"values/prod.yaml", "top.yaml", "charts/lib/values.yaml"}, []string{"values/test.yaml"}, false},
		"paths of its values": {kustomized(map[string]string{overlay + "/db.yaml": release + "chart: redis\n  values: {ingress: {path: /, dir: /cart}}\n", "cart/a.yaml": ""}),
			[]string{overlay + "/db.yaml"}, []string{"cart/a.yaml", "README.md"}, true},
		"a name that is also that of a directory": {kustomized(map[string]string{overlay + "/db.yaml": release + "chart: redis\n  targetNamespace: cart\n", "cart/a.yaml": ""}),
			[]string{overlay + "/db.yaml"}, []string{"cart/a.yaml"}, true},
		"what it has Flux deploy": {kustomized(map[string]string{overlay + "/db.yaml": "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec: {path: ./cart}", "cart/a.yaml": ""}),
			[]string{"cart/a.yaml"}, []string{"other/a.yaml"}, false},
		"components of what it has Flux deploy": {kustomized(map[string]string{overlay + "/db.yaml": "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\n" +
			"spec:\n  path: ./cart/app\n  components: [\"../../../outside/x\", ../../components/backup]\n", "cart/app/a.yaml": "", "components/backup/a.yaml": ""}),
			[]string{"cart/app/a.yaml", "components/backup/a.yaml"}, []string{"components/b.yaml"}, false},
		"a path out of the repository": {kustomized(map[string]string{overlay + "/db.yaml": "x: ../../../../../etc/passwd"}),
			[]string{overlay + "/db.yaml"}, []string{"README.md"}, true},
		"all by Flux": {kustomized(map[string]string{overlay + "/db.yaml": "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec:\n  path: ./\n"}),
			[]string{"cart/a.yaml"}, nil, false},
		"a link": {kustomized(map[string]string{overlay + "/link.yaml": "-> ../../linked.yaml", "shop/linked.yaml": "l"}),
			[]string{"shop/linked.yaml"}, []string{"shop/a.yaml"}, false},
		"behind a link": {kustomized(map[string]string{overlay + "/db.yaml": release + "chart: link/db\n", "link": "-> charts", "charts/db/Chart.yaml": ""}),
			[]string{"charts/db/values.yaml"}, nil, false},
		"a link out of the repository": {kustomized(map[string]string{overlay + "/link.yaml": "-> /etc/passwd"}), []string{"README.md"}, nil, false},
		"a circle": {kustomized(map[string]string{overlay + "/kustomization.yaml": "resources: [../../base]", "shop/base/kustomization.yaml": "resources: [../overlays/prod]"}),
			[]string{"shop/base/a.yaml"}, []string{"shop/a.yaml"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			counting(t, overlay, tt.files, tt.counts, tt.others, tt.git)
		})
	}
}

// counting changes one file after the other, and asks whether that changes what a path deploys, as it should of some and should not of
// others. Git's is whether the name is Git's own of the path.
func counting(t *testing.T, dir string, files map[string]string, counts, others []string, git bool) {
	t.Helper()
	w := newWork(t)
	w.write("README.md", "read me")
	for file, content := range files {
		w.write(file, content)
	}
	before := w.commit("before")
	r := open(t, w.dir, Options{})
	at := func(commit string) string { return mustResolve(t, r, commit, dir).Tree }
	first := at(before)
	if own := w.git("rev-parse", before+":"+dir); (first == own) != git {
		t.Errorf("it is named %s, Git names the path %s", first, own)
	}
	for i, file := range append(counts, others...) {
		w.git("reset", "-q", "--hard", before)
		w.write(file, files[file]+"\n# changed\n")
		changed := w.commit("change " + file)
		counts := i < len(counts)
		if (at(changed) != first) != counts {
			t.Errorf("a change of %s counts: %v, want %v", file, !counts, counts)
		}
		of, err := r.Ancestors(t.Context(), mustResolve(t, r, changed, dir), 1)
		if err != nil || len(of) != 1 || of[0].Differs != counts {
			t.Errorf("the commit before a change of %s: %+v, %v; want that it differs: %v", file, of, err, counts)
		}
		if fresh := mustResolve(t, open(t, w.dir, Options{}), changed, dir).Tree; fresh != at(changed) {
			t.Errorf("after a change of %s it is named %s by who asks for the first time, and %s by who has asked before", file, fresh, at(changed))
		}
	}
}

func mustResolve(t *testing.T, r *Repository, commit, path string) v1alpha1.Revision {
	t.Helper()
	rev, err := r.Resolve(t.Context(), Ref{Commit: commit}, path)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// TestDeployedOfMuch counts everything where there is more than can be looked through.
func TestDeployedOfMuch(t *testing.T) {
	for name, content := range map[string]string{
		"bytes": strings.Repeat("x", 10_000),
		"words": "apiVersion: argoproj.io/v1alpha1\n" + strings.Repeat("- a/b\n", maxLooked+1),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWork(t)
			w.write("deploy/a.yaml", content)
			w.write("other/b.yaml", "b")
			commit := w.commit("much")
			r := open(t, w.dir, Options{})
			if name == "bytes" {
				r.limits.scanned = 9_999
			}
			if got, want := mustResolve(t, r, commit, "deploy").Tree, w.git("rev-parse", commit+"^{tree}"); got != want {
				t.Errorf("it is named %s, want that of the whole commit, %s", got, want)
			}
		})
	}
}

package git

import (
	"maps"
	"strings"
	"testing"
)

// TestOrders changes what engines have elsewhere in the repository, and asks whether that changes what a path deploys.
func TestOrders(t *testing.T) {
	const (
		shop  = "apps/shop"
		kust  = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\n"
		app   = "apiVersion: argoproj.io/v1alpha1\nkind: Application\n"
		set   = "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\n"
		other = "cart"
	)
	flux := func(name, path, more string) string {
		return kust + "metadata: {name: " + name + "}\nspec:\n  path: " + path + "\n  sourceRef: {kind: GitRepository, name: flux-system}\n" + more
	}
	argo := func(name, path, more string) string {
		return app + "metadata: {name: " + name + "}\nspec:\n  source:\n    repoURL: https://git.example.com/acme/shop\n    path: " + path + "\n" + more
	}
	const settings = "  postBuild: {substituteFrom: [{kind: ConfigMap, name: settings}]}\n"
	configMap := func(name string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata: {PG: \"16\"}\n"
	}
	tests := map[string]struct {
		files          map[string]string
		counts, others []string
		git            bool
	}{
		"nobody": {nil, []string{shop + "/db.yaml"}, []string{"clusters/prod/a.yaml"}, true},
		"its Kustomization, and another": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", "  postBuild: {substitute: {PG: \"16\"}}\n"),
			"clusters/cart.yaml": flux(other, "./apps/cart", ""), "clusters/old.yaml": flux("old", "./apps/shop-old", "")},
			[]string{"clusters/shop.yaml", shop + "/db.yaml"}, []string{"clusters/cart.yaml", "clusters/old.yaml", "README.md"}, false},
		"one document of a file": {map[string]string{"clusters/all.yaml": flux("shop", "./apps/shop", "") + "---\n" + flux(other, "./apps/cart", "")},
			nil, []string{"clusters/all.yaml"}, false},
		"the last document of a file": {map[string]string{"clusters/all.yaml": "---\n" + flux(other, "./apps/cart", "") + "---\n" + flux("shop", "apps/shop/", "")},
			[]string{"clusters/all.yaml"}, nil, false},
		"of a part of the path": {map[string]string{"clusters/db.yaml": flux("db", "./apps/shop/db", "")}, []string{"clusters/db.yaml"}, nil, false},
		"of all the repository": {map[string]string{"clusters/all.yaml": kust + "metadata: {name: all}\nspec: {sourceRef: {kind: GitRepository, name: x}}\n"},
			[]string{"clusters/all.yaml"}, nil, false},
		"variables": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", settings), "clusters/settings.yaml": configMap("settings"),
			"clusters/more.yaml": configMap("more")}, []string{"clusters/settings.yaml"}, []string{"clusters/more.yaml"}, false},
		"an encrypted Secret": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", "  postBuild: {substituteFrom: [{kind: Secret, name: keys}]}\n"),
			"clusters/keys.sops.yaml": "apiVersion: v1\nkind: Secret\nmetadata:\n    name: keys\nstringData: {a: 'ENC[x]'}\n"},
			[]string{"clusters/keys.sops.yaml"}, nil, false},
		"generated variables": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", settings),
			"clusters/kustomization.yaml": "resources: [shop.yaml, cart.yaml]\nconfigMapGenerator: [{name: settings, envs: [prod.env]}]\n", "clusters/prod.env": "PG=16",
			"clusters/cart.yaml": flux(other, "./apps/cart", "")},
			[]string{"clusters/prod.env", "clusters/kustomization.yaml"}, []string{"clusters/cart.yaml", "clusters/test.env"}, false},
		"what patches it from above": {map[string]string{"clusters/prod/shop.yaml": flux("shop", "./apps/shop", ""), "clusters/prod/cart.yaml": flux(other, "./apps/cart", ""),
			"flux/root.yaml": flux("root", "./clusters/prod", "  patches: [{patch: x, target: {kind: Kustomization}}]\n  components: [../../parts/a]\n"), "parts/a/a.yaml": "a",
			"flux/test.yaml": flux("root", "./clusters/test", "")},
			[]string{"flux/root.yaml", "parts/a/a.yaml"}, []string{"clusters/prod/cart.yaml", "flux/test.yaml", "parts/b.yaml"}, false},
		"what patches it from beside": {map[string]string{"clusters/base/shop.yaml": flux("shop", "./apps/shop", ""), "clusters/base/cart.yaml": flux(other, "./apps/cart", ""),
			"clusters/prod/kustomization.yaml": "resources: [../base]\npatches: [{path: pg.yaml, target: {kind: Kustomization}}]\n", "clusters/prod/pg.yaml": "- {op: add}\n",
			"clusters/test/kustomization.yaml": "resources: [../other]\npatches: [{path: pg.yaml, target: {kind: Kustomization}}]\n",
			"flux/root.yaml":                   flux("root", "./clusters/prod", ""), "flux/test.yaml": flux("test", "./clusters/test", "")},
			[]string{"clusters/base/shop.yaml", "clusters/prod/kustomization.yaml", "clusters/prod/pg.yaml", "flux/root.yaml"},
			[]string{"clusters/base/cart.yaml", "clusters/test/kustomization.yaml", "clusters/test/pg.yaml", "flux/test.yaml"}, false},
		"what patches it over several overlays": {map[string]string{"z-base/shop.yaml": flux("shop", "./apps/shop", ""), "m-mid/kustomization.yaml": "resources: [../z-base]\n",
			"b-prod/kustomization.yaml": "resources: [../m-mid]\n", "a-root/root.yaml": flux("root", "./b-prod", "")},
			[]string{"a-root/root.yaml"}, []string{"m-mid/other.yaml"}, false},
		"an overlay that changes no deployer": {map[string]string{"clusters/base/shop.yaml": flux("shop", "./apps/shop", ""),
			"clusters/prod/kustomization.yaml": "resources: [../base]\npatches: [{patch: x, target: {kind: Deployment}}]\n"},
			nil, []string{"clusters/prod/kustomization.yaml"}, false},
		"a patch by name": {map[string]string{"clusters/base/shop.yaml": flux("shop", "./apps/shop", ""),
			"clusters/prod/shop.yaml": kust + "metadata: {name: shop}\nspec: {images: [{name: pg, newTag: \"16\"}]}\n",
			"clusters/prod/cart.yaml": kust + "metadata: {name: cart}\nspec: {images: [{name: pg, newTag: \"16\"}]}\n"},
			[]string{"clusters/prod/shop.yaml"}, []string{"clusters/prod/cart.yaml"}, false},
		"a patch within": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", ""),
			"clusters/kustomization.yaml": "resources: [shop.yaml]\npatches:\n- patch: |\n    apiVersion: kustomize.toolkit.fluxcd.io/v1\n    kind: Kustomization\n    metadata: {name: shop}\n"},
			[]string{"clusters/kustomization.yaml"}, nil, false},
		"a component": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", ""),
			"parts/a/kustomization.yaml": "kind: Component\npatches: [{patch: x, target: {kind: Kustomization}}]\n", "parts/b/kustomization.yaml": "kind: Component\n"},
			[]string{"parts/a/kustomization.yaml"}, []string{"parts/b/kustomization.yaml"}, false},
		"a kustomization that cannot be read": {map[string]string{"clusters/kustomization.yaml": "patches: ["}, []string{"clusters/kustomization.yaml"}, nil, false},
		"a transformer": {map[string]string{"clusters/shop.yaml": flux("shop", "./apps/shop", ""), "clusters/kustomization.yaml": "transformers: [t.yaml]\n", "clusters/t.yaml": "x: y"},
			[]string{"clusters/kustomization.yaml", "clusters/t.yaml"}, nil, false},
		"a FluxInstance": {map[string]string{"clusters/prod/shop.yaml": flux("shop", "./apps/shop", ""),
			"flux/instance.yaml": "apiVersion: fluxcd.controlplane.io/v1\nkind: FluxInstance\nspec: {sync: {path: clusters/prod}}\n"},
			[]string{"flux/instance.yaml"}, nil, false},
		"charts and values by name": {map[string]string{shop + "/db.yaml": "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec: {chartRef: {kind: OCIRepository, name: pg}, " +
			"valuesFrom: [{kind: ConfigMap, name: values}]}\n", "sources/pg.yaml": "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata: {name: pg}\nspec: {ref: {tag: 1.2.3}}\n",
			"sources/values.yaml": configMap("values"), "sources/redis.yaml": "kind: OCIRepository\nmetadata: {name: redis}\n"},
			[]string{"sources/pg.yaml", "sources/values.yaml"}, []string{"sources/redis.yaml"}, false},
		"a release of the path's chart": {map[string]string{"releases/shop.yaml": "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec:\n  chart: {spec: {chart: ./apps/shop, valuesFiles: [values/prod.yaml]}}\n",
			"values/prod.yaml": "a: b", "releases/cart.yaml": "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec:\n  chart: {spec: {chart: ./apps/cart}}\n"},
			[]string{"releases/shop.yaml", "values/prod.yaml"}, []string{"releases/cart.yaml", "values/test.yaml"}, false},
		"its Application": {map[string]string{"argocd/shop.yaml": argo("shop", "apps/shop", "    helm: {parameters: [{name: pg, value: \"16\"}], valueFiles: [../../values/prod.yaml]}\n"),
			"argocd/cart.yaml": argo(other, "apps/cart", "    helm: {valuesObject: {ingress: {path: /}}}\n"), "values/prod.yaml": "a: b"},
			[]string{"argocd/shop.yaml", "values/prod.yaml"}, []string{"argocd/cart.yaml", "values/test.yaml"}, false},
		"values of another source": {map[string]string{"argocd/shop.yaml": app + "metadata: {name: shop}\nspec:\n  sources:\n  - {repoURL: a, path: apps/shop, helm: {valueFiles: [$values/env/prod.yaml]}}\n" +
			"  - {repoURL: a, ref: values}\n", "env/prod.yaml": "a: b"}, []string{"argocd/shop.yaml", "env/prod.yaml"}, []string{"env/test.yaml"}, false},
		"an ApplicationSet": {map[string]string{"argocd/set.yaml": set + "spec:\n  generators: [{git: {repoURL: a, directories: [{path: apps/*}]}}]\n" +
			"  template: {spec: {source: {repoURL: a, path: \"{{.path.path}}\"}}}\n", "apps/cart/a.yaml": "a"},
			[]string{"argocd/set.yaml"}, []string{"apps/cart/a.yaml"}, false},
		"an ApplicationSet of other directories": {map[string]string{"argocd/set.yaml": set + "spec:\n  template: {spec: {source: {repoURL: a, path: \"teams/{{team}}\"}}}\n"},
			nil, []string{"argocd/set.yaml"}, true},
		"files of parameters": {map[string]string{"argocd/set.yaml": set + "spec:\n  generators: [{matrix: {generators: [{git: {repoURL: a, files: [{path: \"env/*/config.json\"}]}}]}}]\n" +
			"  template: {spec: {source: {repoURL: a, path: \"apps/{{name}}\"}}}\n", "env/prod/config.json": "{}"},
			[]string{"argocd/set.yaml", "env/prod/config.json"}, []string{"env/prod/other.json"}, false},
		"a chart of Applications": {map[string]string{"argocd/Chart.yaml": "name: apps", "argocd/values.yaml": "a: b",
			"argocd/templates/apps.yaml": "{{ range .Values.apps }}\n" + app + "spec: {source: {path: \"apps/{{ .name }}\"}}\n{{ end }}\n"},
			[]string{"argocd/values.yaml", "argocd/templates/apps.yaml"}, []string{"env/a.yaml"}, false},
		"a chart of an Application": {map[string]string{"argocd/Chart.yaml": "name: apps", "argocd/values.yaml": "a: b", "argocd/templates/apps.yaml": argo("shop", "apps/shop", "")},
			[]string{"argocd/values.yaml"}, nil, false},
		"what is no deployer": {map[string]string{"argocd/shop.yaml": "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec: {path: apps/shop}\n",
			"docs/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: example}\ndata:\n  a: |\n    apiVersion: kustomize.toolkit.fluxcd.io/v1\n    spec: {path: apps/shop}\n"},
			nil, []string{"argocd/shop.yaml", "docs/a.yaml"}, true},
		"a list": {map[string]string{"argocd/list.yaml": "apiVersion: v1\nkind: List\nitems:\n- apiVersion: argoproj.io/v1alpha1\n  kind: Application\n  spec: {source: {path: apps/shop}}\n"},
			[]string{"argocd/list.yaml"}, nil, false},
		"a circle": {map[string]string{"apps/a.yaml": flux("a", "./clusters", ""), "clusters/a.yaml": flux("b", "./apps", "")}, []string{"apps/a.yaml", "clusters/a.yaml"}, nil, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{shop + "/db.yaml": "kind: StatefulSet\n", "apps/cart/db.yaml": "kind: StatefulSet\n"}
			maps.Copy(files, tt.files)
			counting(t, shop, files, tt.counts, append(tt.others, "apps/cart/db.yaml"), tt.git)
		})
	}
}

// TestOrdersOfMuch counts everything where there is more than can be looked through.
func TestOrdersOfMuch(t *testing.T) {
	w := newWork(t)
	w.write("deploy/a.yaml", "a")
	for _, name := range []string{"b", "c"} {
		w.write("other/"+name+".yaml", name+strings.Repeat("x", 500))
	}
	commit := w.commit("much")
	for limit, of := range map[int64]string{1000: commit + "^{tree}", 1003: commit + ":deploy"} {
		r := open(t, w.dir, Options{})
		r.limits.ordered = limit
		for range 2 { // what was found once changes nothing
			if got, want := mustResolve(t, r, commit, "deploy").Tree, w.git("rev-parse", of); got != want {
				t.Errorf("with a limit of %d it is named %s, want %s", limit, got, want)
			}
		}
	}
}

// FuzzOrders reads whatever there may be in a repository.
func FuzzOrders(f *testing.F) {
	for _, seed := range []string{
		"apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec: {path: ./a, sourceRef: {name: b}}\n---\nkind: ConfigMap\nmetadata: {name: c}\n",
		"apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nspec: {template: {spec: {source: {repoURL: a, path: \"{{b}}\"}}}, generators: [{git: {files: [{path: c}]}}]}\n",
		"{{ range . }}\napiVersion: argoproj.io/v1alpha1\nspec: {source: {path: [}}\n", "resources: [../a]\npatches: [{path: b, target: {kind: K.*}}]\n", "---", "- a\n--- b",
	} {
		f.Add("a.yaml", []byte(seed))
		f.Add("kustomization.yaml", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		for _, o := range ordersIn(name, data) {
			if o.sum.IsZero() {
				t.Errorf("an order without a name: %+v", o)
			}
			for _, p := range o.paths {
				if !covers(p, strings.TrimSuffix(p, "*")) {
					t.Errorf("%q does not cover what it says", p)
				}
			}
		}
	})
}

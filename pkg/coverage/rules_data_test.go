package coverage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Manifests of the tests, in short.

func pvc(namespace, name string, more ...string) string {
	head, spec := "", ""
	for _, m := range more {
		if strings.HasPrefix(m, "annotations:") || strings.HasPrefix(m, "labels:") {
			head += "  " + m + "\n"
		} else {
			spec += "  " + m + "\n"
		}
	}
	if !strings.Contains(spec, "resources:") {
		spec += "  resources: {requests: {storage: 1Gi}}\n"
	}
	if !strings.Contains(spec, "accessModes:") {
		spec += "  accessModes: [ReadWriteOnce]\n"
	}
	return fmt.Sprintf("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  namespace: %s\n  name: %s\n%sspec:\n%s", namespace, name, head, spec)
}

func statefulset(namespace, name, template string, more ...string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: StatefulSet
metadata: {namespace: %s, name: %s}
spec:
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec: {containers: [{name: db, image: "postgres:16.4"}]}
  volumeClaimTemplates:
    - metadata: {name: %[3]s}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
%[4]s`, namespace, name, template, indent(more))
}

func indent(lines []string) string {
	out := ""
	for _, l := range lines {
		out += "  " + l + "\n"
	}
	return out
}

func webOf(claim string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: web, volumeMounts: [{name: data, mountPath: /data}]}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
`, claim)
}

func kustomization(name string, spec ...string) string {
	if !slices.ContainsFunc(spec, func(s string) bool { return strings.HasPrefix(s, "prune:") }) {
		spec = append(spec, "prune: true")
	}
	return fmt.Sprintf("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {namespace: flux-system, name: %s}\nspec:\n  sourceRef: {kind: GitRepository, name: flux-system}\n%s", name, indent(spec))
}

func application(name string, meta string, spec ...string) string {
	if len(spec) == 0 {
		spec = []string{"syncPolicy: {automated: {prune: true}}"}
	}
	return fmt.Sprintf("apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {namespace: argocd, name: %s%s}\nspec:\n%s", name, meta, indent(spec))
}

func release(name string) string {
	return fmt.Sprintf("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {namespace: shop, name: %s}\nspec: {chart: {spec: {chart: ./chart, sourceRef: {kind: GitRepository, name: flux-system}}}}\n", name)
}

func protect(spec ...string) string {
	return "apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nmetadata: {namespace: shop, name: shop}\nspec:\n  vaults: [a, b]\n" + indent(spec)
}

const (
	other     = "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: shop, name: settings}\n"
	finalizer = ", finalizers: [resources-finalizer.argocd.argoproj.io]"
)

func namespaceOf(name string, more ...string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n%s", name, indent(more))
}

func gap(owner, what string) string {
	return fmt.Sprintf("kind: Gap\nowner: %q\nwhat: %q\nwhy: it cannot be had\n", owner, what)
}

func join(docs ...string) string { return strings.Join(docs, "---\n") }

// dataRules are the findings that compare two commits by their data: "<rule> <severity>".
func dataRules(r Report) []string {
	var out []string
	for _, f := range r.Findings {
		if strings.HasPrefix(f.Rule, "LS1") || f.Rule == "LS205" || f.Rule == "LS206" {
			out = append(out, f.Rule+" "+string(f.Severity))
		}
	}
	return out
}

func impacts(r Report) []string {
	var out []string
	for _, i := range r.Impact {
		out = append(out, string(i.Effect)+" "+i.Namespace+"/"+i.Volume)
	}
	return out
}

type pair struct {
	base, head string
	// want are the findings about data, impact what becomes of it.
	want, impact []string
}

func (p pair) run(t *testing.T) {
	t.Helper()
	r := check(t, p.base, p.head)
	if got := dataRules(r); !slices.Equal(got, p.want) {
		t.Errorf("found %q, want %q", got, p.want)
		for _, f := range r.Findings {
			t.Log(f.Rule, f.Message)
		}
	}
	if got := impacts(r); !slices.Equal(got, p.impact) {
		t.Errorf("impact %q, want %q: %+v", got, p.impact, r.Impact)
	}
}

func TestClaimPruned(t *testing.T) {
	deleted, left, maybe := []string{"deleted shop/data"}, []string{"left-behind shop/data"}, []string{"may-be-deleted shop/data"}
	lost, unsure := []string{"LS101 error"}, []string{"LS101 warning"}
	annotated := func(text string) string { return pvc("shop", "data", "annotations: {"+text+"}") }
	for name, p := range map[string]pair{
		"gone from what prunes":                {join(pvc("shop", "data"), other), other, lost, deleted},
		"still there":                          {pvc("shop", "data"), join(pvc("shop", "data"), other), nil, nil},
		"grown":                                {pvc("shop", "data"), pvc("shop", "data", "resources: {requests: {storage: 2Gi}}"), nil, nil},
		"gone from what does not prune":        {join(kustomization("shop", "prune: false"), pvc("shop", "data"), other), join(kustomization("shop", "prune: false"), other), nil, left},
		"pruning turned off in the same":       {join(kustomization("shop"), pvc("shop", "data"), other), join(kustomization("shop", "prune: false"), other), nil, left},
		"pruning turned on in the same":        {join(kustomization("shop", "prune: false"), pvc("shop", "data"), other), join(kustomization("shop"), other), lost, deleted},
		"annotated for Flux":                   {join(annotated("kustomize.toolkit.fluxcd.io/prune: disabled"), other), other, nil, left},
		"annotated for Flux with another word": {join(annotated("kustomize.toolkit.fluxcd.io/prune: enabled"), other), other, lost, deleted},
		"annotated for another engine":         {join(annotated("argocd.argoproj.io/sync-options: Prune=false"), other), other, lost, deleted},
		"annotated for Helm under Flux":        {join(annotated("helm.sh/resource-policy: keep"), other), other, lost, deleted},
		"annotated for Argo CD": {join(application("shop", finalizer), annotated(`argocd.argoproj.io/sync-options: "Validate=false, Prune=false"`), other),
			join(application("shop", finalizer), other), nil, left},
		"annotated for the end of an Application, which stays": {join(application("shop", finalizer), annotated("argocd.argoproj.io/sync-options: Delete=false"), other),
			join(application("shop", finalizer), other), lost, deleted},
		"annotated for Helm in a release":      {join(release("shop"), annotated("helm.sh/resource-policy: keep"), other), join(release("shop"), other), nil, left},
		"gone from a release":                  {join(release("shop"), pvc("shop", "data"), other), join(release("shop"), other), lost, deleted},
		"an Application that does not prune":   {join(application("shop", "", "project: default"), pvc("shop", "data"), other), join(application("shop", "", "project: default"), other), nil, left},
		"suspended":                            {join(kustomization("shop", "suspend: true"), pvc("shop", "data"), other), join(kustomization("shop", "suspend: true"), other), unsure, maybe},
		"retained by its class":                {join(retaining, pvc("shop", "data", "storageClassName: keep")), retaining, unsure, left},
		"its owner was not rendered whole":     {join(pvc("shop", "data"), other), join(other, gap("Kustomization flux-system/apps", "deploy/base")), lost, maybe},
		"another owner was not rendered whole": {join(kustomization("x"), pvc("shop", "data"), other), join(kustomization("x"), other, gap("Kustomization flux-system/apps", "deploy/base")), lost, deleted},

		"its Kustomization goes":                       {join(kustomization("shop"), pvc("shop", "data")), other, lost, deleted},
		"its Kustomization goes, and leaves all":       {join(kustomization("shop", "deletionPolicy: Orphan"), pvc("shop", "data")), other, nil, left},
		"its Kustomization goes, and deletes all":      {join(kustomization("shop", "prune: false", "deletionPolicy: Delete"), pvc("shop", "data")), other, lost, deleted},
		"its Kustomization goes, which is suspended":   {join(kustomization("shop", "suspend: true"), pvc("shop", "data")), other, nil, left},
		"its Kustomization goes, which nothing brings": {join(without(kustomization("shop")), pvc("shop", "data")), other, unsure, maybe},
		"its Application goes with its finalizer":      {join(application("shop", finalizer), pvc("shop", "data")), other, lost, deleted},
		"its Application goes without finalizer":       {join(application("shop", ""), pvc("shop", "data")), other, nil, left},
		"its Application goes, and it may not":         {join(application("shop", finalizer), annotated("argocd.argoproj.io/sync-options: Delete=false")), other, nil, left},
		"its release goes":                             {join(release("shop"), pvc("shop", "data")), other, lost, deleted},

		"moved to another Kustomization":      {join(kustomization("a"), pvc("shop", "data"), kustomization("b"), other), join(kustomization("a"), kustomization("b"), other, pvc("shop", "data")), unsure, maybe},
		"moved, and the new one waits":        {join(kustomization("a"), pvc("shop", "data"), kustomization("b"), other), join(kustomization("a"), kustomization("b", "dependsOn: [{name: a}]"), other, pvc("shop", "data")), lost, deleted},
		"moved, and the old one waits":        {join(kustomization("a"), pvc("shop", "data"), kustomization("b"), other), join(kustomization("a", "dependsOn: [{name: b}]"), kustomization("b"), other, pvc("shop", "data")), nil, nil},
		"moved from what does not prune":      {join(kustomization("a", "prune: false"), pvc("shop", "data"), kustomization("b"), other), join(kustomization("a", "prune: false"), kustomization("b"), other, pvc("shop", "data")), nil, nil},
		"moved, annotated to be kept":         {join(kustomization("a"), annotated("kustomize.toolkit.fluxcd.io/prune: disabled"), kustomization("b"), other), join(kustomization("a"), kustomization("b"), other, pvc("shop", "data")), nil, nil},
		"deployed by two, and by one of them": {join(kustomization("a"), pvc("shop", "data"), other, kustomization("b"), pvc("shop", "data"), other), join(kustomization("a"), other, kustomization("b"), pvc("shop", "data"), other), lost, deleted},

		"its namespace goes":                  {join(namespaceOf("shop"), annotated("kustomize.toolkit.fluxcd.io/prune: disabled")), namespaceOf("x"), lost, deleted},
		"its namespace goes, with a set":      {join(namespaceOf("shop"), statefulset("shop", "db", "data")), namespaceOf("x"), lost, []string{"deleted shop/data-db-0"}},
		"its namespace goes, and is kept":     {join(namespaceOf("shop", "annotations: {kustomize.toolkit.fluxcd.io/prune: disabled}"), pvc("shop", "data")), join(namespaceOf("x"), pvc("shop", "data")), nil, nil},
		"its namespace goes, but it does not": {join(namespaceOf("shop"), pvc("shop", "data")), pvc("shop", "data"), lost, deleted},
		"another namespace goes":              {join(namespaceOf("x"), pvc("shop", "data")), pvc("shop", "data"), nil, nil},

		"a set goes, and its claims stay": {join(statefulset("shop", "db", "data"), other), other, nil, []string{"left-behind shop/data-db-0"}},
		"a set goes, which deletes its claims": {join(statefulset("shop", "db", "data", "persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}"), other), other,
			[]string{"LS108 error"}, []string{"deleted shop/data-db-0"}},
		"a set moves": {join(kustomization("a"), statefulset("shop", "db", "data"), kustomization("b"), other), join(kustomization("a"), kustomization("b"), other, statefulset("shop", "db", "data")), nil, nil},
	} {
		t.Run(name, p.run)
	}
}

const retaining = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: keep}\nprovisioner: x\nreclaimPolicy: Retain\n"

// without makes an owner that nothing in the repository brings.
func without(owner string) string {
	return strings.Replace(owner, "metadata: {", "metadata: {annotations: {test/parent: none}, ", 1)
}

func TestRenames(t *testing.T) {
	for name, p := range map[string]pair{
		"a claim, mounted in the same place": {join(pvc("shop", "data"), webOf("data")), join(pvc("shop", "web-data", "resources: {requests: {storage: 5Gi}}"), webOf("web-data")),
			[]string{"LS102 error"}, []string{"deleted shop/data"}},
		"a claim that asks for the same": {pvc("shop", "data"), pvc("shop", "files"), []string{"LS102 error"}, []string{"deleted shop/data"}},
		"a claim that asks for more":     {pvc("shop", "data"), pvc("shop", "files", "resources: {requests: {storage: 5Gi}}"), []string{"LS101 error"}, []string{"deleted shop/data"}},
		"a claim, and two new ones":      {pvc("shop", "data"), join(pvc("shop", "a"), pvc("shop", "b")), []string{"LS101 error"}, []string{"deleted shop/data"}},
		"a claim that is a clone":        {join(pvc("shop", "data"), webOf("data")), join(pvc("shop", "data"), pvc("shop", "fresh", "dataSource: {kind: PersistentVolumeClaim, name: data}"), webOf("fresh")), nil, nil},
		"a claim beside the old one":     {join(pvc("shop", "data"), webOf("data")), join(pvc("shop", "data"), pvc("shop", "fresh"), webOf("fresh")), nil, nil},
		"a claim, where nothing prunes": {join(kustomization("s", "prune: false"), pvc("shop", "data"), webOf("data")), join(kustomization("s", "prune: false"), pvc("shop", "fresh"), webOf("fresh")),
			[]string{"LS102 error"}, []string{"left-behind shop/data"}},

		"a set":                      {statefulset("shop", "db", "data"), statefulset("shop", "pg", "data"), []string{"LS103 error"}, []string{"left-behind shop/data-db-0"}},
		"a template":                 {statefulset("shop", "db", "data"), statefulset("shop", "db", "pgdata"), []string{"LS103 error"}, []string{"left-behind shop/data-db-0"}},
		"a set of other programs":    {statefulset("shop", "db", "data"), strings.ReplaceAll(statefulset("shop", "mq", "data"), "postgres", "rabbitmq"), nil, []string{"left-behind shop/data-db-0"}},
		"a set with a newer version": {statefulset("shop", "db", "data"), strings.ReplaceAll(statefulset("shop", "pg", "data"), "16.4", "17.0"), []string{"LS103 error"}, []string{"left-behind shop/data-db-0"}},
		"a set beside the old one":   {statefulset("shop", "db", "data"), join(statefulset("shop", "db", "data"), statefulset("shop", "pg", "data")), nil, nil},
		"a set whose claims Git fills": {statefulset("shop", "db", "data"), join(statefulset("shop", "pg", "data"), pvc("shop", "data-pg-0", "dataSource: {kind: PersistentVolumeClaim, name: data-db-0}")),
			nil, []string{"left-behind shop/data-db-0"}},

		"a namespace":               {pvc("shop", "data"), pvc("prod", "data"), []string{"LS104 error"}, []string{"deleted shop/data"}},
		"a namespace of a set":      {statefulset("shop", "db", "data"), statefulset("prod", "db", "data"), []string{"LS104 error"}, []string{"left-behind shop/data-db-0"}},
		"a namespace, with its own": {join(namespaceOf("shop"), pvc("shop", "data")), join(namespaceOf("prod"), pvc("prod", "data")), []string{"LS104 error"}, []string{"deleted shop/data"}},
		"a second namespace":        {pvc("shop", "data"), join(pvc("shop", "data"), pvc("prod", "data")), nil, nil},

		"a Kustomization": {join(kustomization("a"), pvc("shop", "data"), other), join(kustomization("b"), pvc("shop", "data"), other), []string{"LS106 error"}, []string{"may-be-deleted shop/data"}},
		"a Kustomization that nothing brings": {join(without(kustomization("a")), pvc("shop", "data")), join(without(kustomization("b")), pvc("shop", "data")),
			[]string{"LS106 error"}, []string{"may-be-deleted shop/data"}},
		"a Kustomization that leaves all":  {join(kustomization("a", "deletionPolicy: Orphan"), pvc("shop", "data")), join(kustomization("b"), pvc("shop", "data")), nil, nil},
		"a Kustomization without claims":   {join(kustomization("a"), statefulset("shop", "db", "data")), join(kustomization("b"), statefulset("shop", "db", "data")), nil, nil},
		"an Application":                   {join(application("a", finalizer), pvc("shop", "data")), join(application("b", finalizer), pvc("shop", "data")), []string{"LS106 error"}, []string{"may-be-deleted shop/data"}},
		"an Application without finalizer": {join(application("a", ""), pvc("shop", "data")), join(application("b", ""), pvc("shop", "data")), nil, nil},
	} {
		t.Run(name, p.run)
	}
}

func TestChanges(t *testing.T) {
	claim := func(more ...string) string { return pvc("shop", "data", more...) }
	for name, p := range map[string]pair{
		"a class":                     {claim("storageClassName: a"), claim("storageClassName: b"), []string{"LS105 error"}, nil},
		"a class where none was":      {claim(), claim("storageClassName: b"), []string{"LS105 warning"}, nil},
		"no class, and then the void": {claim("storageClassName: a"), claim(), []string{"LS105 error"}, nil},
		"modes":                       {claim(), claim("accessModes: [ReadWriteMany]"), []string{"LS105 error"}, nil},
		"modes in another order":      {claim("accessModes: [ReadWriteOnce, ReadOnlyMany]"), claim("accessModes: [ReadOnlyMany, ReadWriteOnce]"), nil, nil},
		"a volume mode":               {claim(), claim("volumeMode: Block"), []string{"LS105 error"}, nil},
		"the default volume mode":     {claim(), claim("volumeMode: Filesystem"), nil, nil},
		"less":                        {claim(), claim("resources: {requests: {storage: 512Mi}}"), []string{"LS105 error"}, nil},
		"the same in other words":     {claim(), claim("resources: {requests: {storage: 1024Mi}}"), nil, nil},
		"a label":                     {claim(), claim("labels: {a: b}"), nil, nil},
		"a source":                    {claim(), claim("dataSourceRef: {apiGroup: lockstep.dev, kind: ProtectionPolicy, name: shop}"), []string{"LS105 error"}, nil},
		"more for a template":         {statefulset("shop", "db", "data"), strings.ReplaceAll(statefulset("shop", "db", "data"), "1Gi", "2Gi"), []string{"LS105 error"}, nil},
		"a template gone":             {statefulset("shop", "db", "data"), strings.Split(statefulset("shop", "db", "data"), "  volumeClaimTemplates")[0], []string{"LS105 error"}, []string{"left-behind shop/data-db-0"}},
		"one more template": {statefulset("shop", "db", "data"), statefulset("shop", "db", "data", "  - metadata: {name: wal}", "    spec: {resources: {requests: {storage: 1Gi}}}"),
			[]string{"LS105 error"}, nil},
		"the image of a set": {statefulset("shop", "db", "data"), strings.ReplaceAll(statefulset("shop", "db", "data"), "16.4", "16.5"), nil, nil},

		"a class, by force":         {join(kustomization("s", "force: true"), claim("storageClassName: a")), join(kustomization("s", "force: true"), claim("storageClassName: b")), []string{"LS109 error"}, []string{"deleted shop/data"}},
		"more, by force":            {join(kustomization("s", "force: true"), claim()), join(kustomization("s", "force: true"), claim("resources: {requests: {storage: 2Gi}}")), nil, nil},
		"force":                     {join(kustomization("s"), claim()), join(kustomization("s", "force: true"), claim()), []string{"LS109 error"}, nil},
		"force over a set":          {join(kustomization("s"), statefulset("shop", "db", "data")), join(kustomization("s", "force: true"), statefulset("shop", "db", "data")), []string{"LS109 error"}, nil},
		"force over what has none":  {join(kustomization("s"), other), join(kustomization("s", "force: true"), other), nil, nil},
		"force on the claim":        {claim(), claim("annotations: {kustomize.toolkit.fluxcd.io/force: enabled}"), []string{"LS109 error"}, nil},
		"force of another engine":   {claim(), claim("annotations: {argocd.argoproj.io/sync-options: Replace=true}"), nil, nil},
		"replace on an Application": {join(application("s", ""), claim()), join(application("s", "", "syncPolicy: {automated: {prune: true}, syncOptions: [Replace=true]}"), claim()), []string{"LS109 error"}, nil},
		"replace on the claim":      {join(application("s", ""), claim()), join(application("s", ""), claim("annotations: {argocd.argoproj.io/sync-options: Replace=true}")), []string{"LS109 error"}, nil},
		"another option":            {join(application("s", ""), claim()), join(application("s", ""), claim("annotations: {argocd.argoproj.io/sync-options: Validate=false}")), nil, nil},

		"a policy gone":            {join(claim(), protect("schedule: 0 * * * *")), claim(), []string{"LS107 error"}, nil},
		"a policy suspended":       {join(claim(), protect("schedule: 0 * * * *")), join(claim(), protect("schedule: 0 * * * *", "suspend: true")), []string{"LS107 error"}, nil},
		"a policy by hand only":    {join(claim(), protect("schedule: 0 * * * *")), join(claim(), protect()), []string{"LS107 error"}, nil},
		"a policy by each deploy":  {join(claim(), protect("schedule: 0 * * * *")), join(claim(), protect("onDeploy: Before")), nil, nil},
		"a label that is selected": {join(claim("labels: {a: b}"), protect("volumes: {selector: {matchLabels: {a: b}}}")), join(claim(), protect("volumes: {selector: {matchLabels: {a: b}}}")), []string{"LS107 error"}, nil},
		"left out with a reason":   {join(claim(), protect()), join(claim("annotations: {lockstep.dev/exclude: a cache}"), protect()), nil, nil},
		"left out without one":     {join(claim(), protect()), join(claim(`annotations: {lockstep.dev/exclude: ""}`), protect()), []string{"LS107 error"}, nil},
		"a policy renamed":         {join(claim(), protect()), join(claim(), strings.Replace(protect(), "name: shop", "name: all", 1)), nil, nil},
		"never protected":          {claim(), join(claim(), other), nil, nil},

		"a set that deletes": {statefulset("shop", "db", "data"), statefulset("shop", "db", "data", "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}"), []string{"LS108 error"}, nil},
		"a set that deletes, as before": {statefulset("shop", "db", "data", "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}"),
			join(other, statefulset("shop", "db", "data", "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}")), nil, nil},
		"a new set that deletes": {other, statefulset("shop", "db", "data", "persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}"), []string{"LS108 error"}, nil},
		"a set that deletes gets smaller": {statefulset("shop", "db", "data", "replicas: 3", "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}"),
			statefulset("shop", "db", "data", "replicas: 2", "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}"), []string{"LS108 error"}, []string{"deleted shop/data-db-{0..2}"}},
		"a set gets smaller":             {statefulset("shop", "db", "data", "replicas: 3"), statefulset("shop", "db", "data", "replicas: 1"), []string{"LS205 warning"}, []string{"left-behind shop/data-db-{0..2}"}},
		"a set grows":                    {statefulset("shop", "db", "data", "replicas: 3"), statefulset("shop", "db", "data", "replicas: 9"), nil, nil},
		"a set is left to an autoscaler": {statefulset("shop", "db", "data", "replicas: 3"), statefulset("shop", "db", "data"), nil, nil},

		"a major version":               {statefulset("shop", "db", "data"), strings.ReplaceAll(statefulset("shop", "db", "data"), "16.4", "17"), []string{"LS206 warning"}, nil},
		"a tag that tells no version":   {statefulset("shop", "db", "data"), strings.ReplaceAll(statefulset("shop", "db", "data"), "16.4", "latest"), nil, nil},
		"a major version behind a gate": {join(gated, statefulset("shop", "db", "data"), protect("onDeploy: Before")), join(gated, strings.ReplaceAll(statefulset("shop", "db", "data"), "16.4", "17"), protect("onDeploy: Before")), nil, nil},
		"a major version, with a gate and no point": {join(gated, statefulset("shop", "db", "data"), protect()), join(gated, strings.ReplaceAll(statefulset("shop", "db", "data"), "16.4", "17"), protect()),
			[]string{"LS206 warning"}, nil},
	} {
		t.Run(name, p.run)
	}
}

var gated = strings.Replace(kustomization("s"), "metadata: {", "metadata: {annotations: {lockstep.dev/pre-deploy: required}, ", 1)

// TestNotRenderedIsToldOnce has a Kustomization that builds no more: its claims refer to the reason, which may be long, and do not repeat it.
func TestNotRenderedIsToldOnce(t *testing.T) {
	const apps, reason = "Kustomization flux-system/apps", "it cannot be had"
	other := "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: shop, name: other}\n"
	for what, want := range map[string]string{
		apps:          apps + " was not rendered whole (see what is not rendered), so",
		"deploy/base": apps + " was rendered without deploy/base (see what is not rendered), so",
	} {
		r := check(t, join(pvc("shop", "a"), pvc("shop", "b"), other), join(other, gap(apps, what)))
		if len(r.NotRendered) != 1 || r.NotRendered[0].Why != reason || len(r.Impact) != 2 {
			t.Fatalf("not rendered is %v, of which %v follows", r.NotRendered, r.Impact)
		}
		for _, i := range r.Impact {
			if !strings.HasPrefix(i.Why, want) {
				t.Errorf("of %s is said: %s", i.Volume, i.Why)
			}
		}
		for _, f := range r.Findings {
			if strings.Contains(f.Message, reason) || f.Rule == "LS101" && !strings.Contains(f.Message, want) {
				t.Errorf("%s says: %s", f.Rule, f.Message)
			}
		}
	}
}

package coverage_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/render"
)

// monorepo is a repository as Flux's users have it: a cluster whose own Kustomization brings those of its applications.
func monorepo() map[string]string {
	return map[string]string{
		"clusters/prod/flux-system/sync.yaml": `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: flux-system, namespace: flux-system}
spec: {interval: 1m, url: "https://git.example.com/fleet.git", ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux-system, namespace: flux-system}
spec: {interval: 10m, path: ./clusters/prod, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`,
		"clusters/prod/shop.yaml": `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop, namespace: flux-system}
spec: {interval: 10m, path: ./apps/shop, prune: true, targetNamespace: shop, sourceRef: {kind: GitRepository, name: flux-system}}
`,
		"clusters/prod/backup.yaml": `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: backup, namespace: flux-system}
spec: {interval: 10m, path: ./backup, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`,
		"apps/shop/kustomization.yaml": "resources: [files.yaml, web.yaml, db.yaml]\n",
		"apps/shop/files.yaml": `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 40Gi}}}
`,
		"apps/shop/web.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "acme/web:1", volumeMounts: [{name: files, mountPath: /files}]}]
      volumes: [{name: files, persistentVolumeClaim: {claimName: files}}]
`,
		"apps/shop/db.yaml": `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: "postgres:16.4", volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]}]}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Gi}}}
`,
		"backup/policy.yaml": `apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: shop, namespace: shop}
spec: {vaults: [primary, offsite], schedule: "0 * * * *"}
`,
	}
}

// argo is a repository as Argo CD's users have it: an Application of Applications. One of them has its chart in the repository.
func argo() map[string]string {
	app := func(name, path, more string) string {
		return fmt.Sprintf(`apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd, finalizers: [resources-finalizer.argocd.argoproj.io]}
spec:
  source: {repoURL: "https://git.example.com/fleet.git", path: %s, targetRevision: HEAD%s}
  destination: {server: "https://kubernetes.default.svc", namespace: %[1]s}
  syncPolicy: {automated: {prune: true}}
`, name, path, more)
	}
	return map[string]string{
		"root.yaml":         app("root", "apps", ""),
		"apps/shop.yaml":    app("shop", "shop", ""),
		"apps/cache.yaml":   app("cache", "chart", ", helm: {valuesObject: {keep: false, persistence: true}}"),
		"shop/files.yaml":   monorepo()["apps/shop/files.yaml"],
		"shop/db.yaml":      monorepo()["apps/shop/db.yaml"],
		"chart/Chart.yaml":  "apiVersion: v2\nname: cache\nversion: 1.0.0\n",
		"chart/values.yaml": "persistence: true\nkeep: false\n",
		"chart/templates/all.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
{{- if .Values.persistence }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .Release.Name }}-data
  {{- if .Values.keep }}
  annotations: {helm.sh/resource-policy: keep}
  {{- end }}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 5Gi}}}
{{- end }}
`,
	}
}

// release is the same chart by Flux.
func release() map[string]string {
	files := monorepo()
	for name, text := range argo() {
		if strings.HasPrefix(name, "chart/") {
			files[name] = text
		}
	}
	files["apps/shop/kustomization.yaml"] = "resources: [release.yaml]\n"
	files["apps/shop/release.yaml"] = `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: cache, namespace: shop}
spec:
  interval: 10m
  chart: {spec: {chart: ./chart, sourceRef: {kind: GitRepository, name: flux-system, namespace: flux-system}}}
  values: {persistence: true, keep: false}
`
	return files
}

// edit is a change of files: "<file>": old text, new text; an old text that is empty makes the file, a new one that is empty in a file
// whose whole text is the old one removes it.
type edit struct{ file, old, now string }

// A StorageClass that a cluster has from a Kustomization of its own, which no change touches.
var (
	kept    = edit{"base:apps/shop/files.yaml", "spec: {", "spec: {storageClassName: kept, "}
	noFiles = edit{"apps/shop/kustomization.yaml", "files.yaml, web.yaml, ", ""}
	staging = edit{"base:clusters/staging/flux-system/sync.yaml", "", strings.ReplaceAll(monorepo()["clusters/prod/flux-system/sync.yaml"], "/prod", "/staging")}
)

// orders is a database of which an operator makes the volumes.
const orders = "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {namespace: shop, name: orders}\nspec: {instances: 3}\n"

// elsewhere is a release of a chart that is not in the repository.
const elsewhere = `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: cache, namespace: shop}
spec: {interval: 10m, chart: {spec: {chart: redis, version: 1.0.0, sourceRef: {kind: HelmRepository, name: charts}}}}
`

// static is a volume of Git, to which bound binds the claim.
func static(more string) edit {
	return edit{"base:apps/shop/files.yaml", "apiVersion", "{apiVersion: v1, kind: PersistentVolume, metadata: {name: files}, spec: {" + more + "storageClassName: '', nfs: {server: a, path: /a}}}\n---\napiVersion"}
}

var bound = edit{"base:apps/shop/files.yaml", "spec: {access", "spec: {storageClassName: '', volumeName: files, access"}

func storage(cluster, policy string) edit {
	return edit{"base:storage/" + cluster + "/class.yaml", "", "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: kept}, provisioner: csi.example.com, reclaimPolicy: " + policy + "}\n"}
}

func storageOf(cluster string) edit {
	return edit{"base:clusters/" + cluster + "/storage.yaml", "", strings.NewReplacer("name: backup", "name: storage", "./backup", "./storage/"+cluster).Replace(monorepo()["clusters/prod/backup.yaml"])}
}

// TestCommits compares pairs of commits of a real Git repository: what must be found about the data, and near misses.
func TestCommits(t *testing.T) {
	for name, c := range map[string]pairOfCommits{
		"nothing": {[]edit{{"README.md", "", "hello"}}, ""},
		"a claim leaves": {[]edit{{"apps/shop/kustomization.yaml", "files.yaml, web.yaml, ", ""}},
			"LS101: deleted shop/files 40Gi"},
		"an operator's database leaves": {[]edit{{"base:clusters/prod/orders.yaml", "", orders}, {"clusters/prod/orders.yaml", "whole", ""}},
			"LS101: may-be-deleted shop/volumes that CloudNativePG makes for Cluster orders "},
		"an operator's database leaves that is kept": {[]edit{{"base:clusters/prod/orders.yaml", "", strings.Replace(orders, "name: orders", "name: orders, annotations: {kustomize.toolkit.fluxcd.io/prune: disabled}", 1)}, {"clusters/prod/orders.yaml", "whole", ""}},
			""},
		"an operator's database moves": {[]edit{{"base:clusters/prod/orders.yaml", "", orders}, {"clusters/prod/orders.yaml", "whole", ""}, {"clusters/prod/database.yaml", "", orders}}, ""},
		"a chart of elsewhere leaves": {[]edit{{"base:clusters/prod/cache.yaml", "", elsewhere}, {"clusters/prod/cache.yaml", "whole", ""}},
			"LS101: may-be-deleted shop/volumes that HelmRelease shop/cache (clusters/prod) may have "},
		"a chart of elsewhere leaves that is kept": {[]edit{{"base:clusters/prod/cache.yaml", "", strings.Replace(elsewhere, "name: cache,", "name: cache, annotations: {kustomize.toolkit.fluxcd.io/prune: disabled},", 1)}, {"clusters/prod/cache.yaml", "whole", ""}},
			""},
		"a chart of elsewhere changes": {[]edit{{"base:clusters/prod/cache.yaml", "", elsewhere}, {"clusters/prod/cache.yaml", "1.0.0", "1.0.1"}}, ""},
		"a chart of elsewhere moves":   {[]edit{{"base:clusters/prod/cache.yaml", "", elsewhere}, {"clusters/prod/cache.yaml", "whole", ""}, {"clusters/prod/redis.yaml", "", elsewhere}}, ""},
		"a claim leaves what does not prune": {[]edit{{"apps/shop/kustomization.yaml", "files.yaml, web.yaml, ", ""}, {"clusters/prod/shop.yaml", "prune: true", "prune: false"}},
			"left-behind shop/files 40Gi"},
		"an application leaves": {[]edit{{"clusters/prod/shop.yaml", "whole", ""}},
			"LS101: deleted shop/files 40Gi, left-behind shop/data-db-{0..2} 10Gi"},
		"a claim leaves whose class retains": {[]edit{kept, storage("prod", "Retain"), storageOf("prod"), noFiles}, "LS101: left-behind shop/files 40Gi"},
		"a claim leaves whose class deletes, and retains elsewhere": {[]edit{kept, storage("prod", "Delete"), storageOf("prod"), staging, storage("staging", "Retain"), storageOf("staging"), noFiles},
			"LS101: deleted shop/files 40Gi"},
		"a claim leaves whose class retains, and deletes elsewhere": {[]edit{kept, storage("prod", "Retain"), storageOf("prod"), staging, storage("staging", "Delete"), storageOf("staging"), noFiles},
			"LS101: left-behind shop/files 40Gi"},
		"a claim leaves whose volume Git has":                     {[]edit{static(""), bound, noFiles}, "LS101: left-behind shop/files 40Gi"},
		"a claim leaves whose volume Git has and that is deleted": {[]edit{static("persistentVolumeReclaimPolicy: Delete, "), bound, noFiles}, "LS101: deleted shop/files 40Gi"},
		"a claim leaves whose class is new and retains":           {[]edit{kept, {"clusters/prod/class.yaml", "", storage("prod", "Retain").now}, noFiles}, "LS101: deleted shop/files 40Gi"},
		"a claim is renamed": {[]edit{{"apps/shop/files.yaml", "name: files", "name: uploads"}, {"apps/shop/web.yaml", "claimName: files", "claimName: uploads"}},
			"LS102: deleted shop/files 40Gi"},
		"a file is renamed":     {[]edit{{"apps/shop/kustomization.yaml", "[files.yaml", "[claims.yaml"}, {"apps/shop/claims.yaml", "", monorepo()["apps/shop/files.yaml"]}, {"apps/shop/files.yaml", "whole", ""}}, ""},
		"a set is renamed":      {[]edit{{"apps/shop/db.yaml", "{name: db}\nspec", "{name: postgres}\nspec"}}, "LS103: left-behind shop/data-db-{0..2} 10Gi"},
		"a template is renamed": {[]edit{{"apps/shop/db.yaml", "{name: data}\n", "{name: pgdata}\n"}}, "LS103: left-behind shop/data-db-{0..2} 10Gi"},
		"all get a prefix": {[]edit{{"apps/shop/kustomization.yaml", "resources", "namePrefix: eu-\nresources"}},
			"LS102 LS103: deleted shop/files 40Gi, left-behind shop/data-db-{0..2} 10Gi"},
		"another target": {[]edit{{"clusters/prod/shop.yaml", "targetNamespace: shop", "targetNamespace: store"}},
			"LS104 LS104: deleted shop/files 40Gi, left-behind shop/data-db-{0..2} 10Gi"},
		"a claim shrinks":    {[]edit{{"apps/shop/files.yaml", "40Gi", "20Gi"}}, "LS105"},
		"a claim grows":      {[]edit{{"apps/shop/files.yaml", "40Gi", "80Gi"}}, ""},
		"a patch on a class": {[]edit{{"clusters/prod/shop.yaml", "prune: true", `prune: true, patches: [{patch: '[{"op": "add", "path": "/spec/storageClassName", "value": "fast"}]', target: {kind: PersistentVolumeClaim}}]`}}, "LS105"},
		"a patch that fails": {[]edit{{"clusters/prod/shop.yaml", "prune: true", `prune: true, patches: [{patch: "no patch"}]`}},
			"LS101: may-be-deleted shop/files 40Gi, left-behind shop/data-db-{0..2} 10Gi"},
		"a Kustomization is renamed": {[]edit{{"clusters/prod/shop.yaml", "name: shop", "name: webshop"}},
			"LS106: may-be-deleted shop/files 40Gi"},
		"a Kustomization is renamed that leaves all": {[]edit{{"clusters/prod/shop.yaml", "name: shop", "name: webshop"}, {"base:clusters/prod/shop.yaml", "prune: true", "prune: true, deletionPolicy: Orphan"}},
			""},
		"the policy goes":          {[]edit{{"clusters/prod/backup.yaml", "whole", ""}}, "LS107 LS107"},
		"the policy is suspended":  {[]edit{{"backup/policy.yaml", "schedule", "suspend: true, schedule"}}, "LS107 LS107"},
		"the policy runs at night": {[]edit{{"backup/policy.yaml", "0 * * * *", "0 2 * * *"}}, ""},
		"the set deletes":          {[]edit{{"apps/shop/db.yaml", "replicas: 3", "replicas: 3\n  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}"}}, "LS108"},
		"the set says it keeps":    {[]edit{{"apps/shop/db.yaml", "replicas: 3", "replicas: 3\n  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain}"}}, ""},
		"force":                    {[]edit{{"clusters/prod/shop.yaml", "prune: true", "prune: true, force: true"}}, "LS109 LS109"},
		"force elsewhere":          {[]edit{{"clusters/prod/backup.yaml", "prune: true", "prune: true, force: true"}}, ""},
		"fewer replicas":           {[]edit{{"apps/shop/db.yaml", "replicas: 3", "replicas: 1"}}, "LS205: left-behind shop/data-db-{0..2} 10Gi"},
		"more replicas":            {[]edit{{"apps/shop/db.yaml", "replicas: 3", "replicas: 5"}}, ""},
		"a major version":          {[]edit{{"apps/shop/db.yaml", "postgres:16.4", "postgres:17.0"}}, "LS206"},
		"a minor version":          {[]edit{{"apps/shop/db.yaml", "postgres:16.4", "postgres:16.9"}}, ""},
	} {
		t.Run(name, func(t *testing.T) { c.run(t, monorepo) })
	}
}

// TestCommitsOfArgoCD is TestCommits for what Argo CD does with it.
func TestCommitsOfArgoCD(t *testing.T) {
	for name, c := range map[string]pairOfCommits{
		"nothing":        {[]edit{{"README.md", "", "hello"}}, ""},
		"a claim leaves": {[]edit{{"shop/files.yaml", "whole", ""}}, "LS101: deleted shop/files 40Gi"},
		"a claim leaves that is not pruned": {[]edit{{"base:shop/files.yaml", "{name: files}", "{name: files, annotations: {argocd.argoproj.io/sync-options: Prune=false}}"}, {"shop/files.yaml", "whole", ""}},
			"left-behind shop/files 40Gi"},
		"nothing is pruned":         {[]edit{{"shop/files.yaml", "whole", ""}, {"apps/shop.yaml", "prune: true", "prune: false"}}, "left-behind shop/files 40Gi"},
		"an Application is renamed": {[]edit{{"apps/shop.yaml", "name: shop,", "name: store,"}}, "LS106: may-be-deleted shop/files 40Gi"},
		"an Application leaves":     {[]edit{{"apps/shop.yaml", "whole", ""}}, "LS101: deleted shop/files 40Gi, left-behind shop/data-db-{0..2} 10Gi"},
		"an Application leaves, and leaves all": {[]edit{{"base:apps/shop.yaml", ", finalizers: [resources-finalizer.argocd.argoproj.io]", ""}, {"apps/shop.yaml", "whole", ""}},
			"left-behind shop/data-db-{0..2} 10Gi, left-behind shop/files 40Gi"},
		"another destination":   {[]edit{{"apps/shop.yaml", "namespace: shop}", "namespace: store}"}}, "LS104 LS104: deleted shop/files 40Gi, left-behind shop/data-db-{0..2} 10Gi"},
		"replace":               {[]edit{{"apps/shop.yaml", "automated: {prune: true}", "automated: {prune: true}, syncOptions: [Replace=true]"}}, "LS109 LS109"},
		"a value of the chart":  {[]edit{{"apps/cache.yaml", "persistence: true", "persistence: false"}}, "LS101: deleted cache/cache-data 5Gi"},
		"a value that keeps it": {[]edit{{"base:apps/cache.yaml", "keep: false", "keep: true"}, {"apps/cache.yaml", "persistence: true", "persistence: false"}}, "left-behind cache/cache-data 5Gi"},
		"another release":       {[]edit{{"apps/cache.yaml", "helm: {", "helm: {releaseName: store, "}}, "LS102: deleted cache/cache-data 5Gi"},
	} {
		t.Run(name, func(t *testing.T) { c.run(t, argo) })
	}
}

// sets is a repository whose Applications an ApplicationSet makes.
func sets() map[string]string {
	files := argo()
	files["apps/cache.yaml"] = "{apiVersion: v1, kind: ConfigMap, metadata: {name: cache, namespace: argocd}}\n"
	files["apps/shop.yaml"] = `apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: shops, namespace: argocd}
spec:
  generators: [{list: {elements: [{name: shop}, {name: store}]}}]
  template:
    metadata: {name: "{{name}}"}
    spec:
      source: {repoURL: "https://git.example.com/fleet.git", path: shop, targetRevision: HEAD}
      destination: {server: "https://kubernetes.default.svc", namespace: "{{name}}"}
`
	return files
}

// TestCommitsOfApplicationSets is TestCommits for Applications that are made: Argo CD deletes those that are made no more.
func TestCommitsOfApplicationSets(t *testing.T) {
	noMore := edit{"apps/shop.yaml", ", {name: store}", ""}
	says := func(policy string) edit {
		return edit{"base:apps/shop.yaml", "  template:", "  syncPolicy: {" + policy + "}\n  template:"}
	}
	const gone, left = "deleted store/files 40Gi, left-behind store/data-db-{0..2} 10Gi", "left-behind store/data-db-{0..2} 10Gi, left-behind store/files 40Gi"
	for name, c := range map[string]pairOfCommits{
		"nothing":                       {[]edit{{"README.md", "", "hello"}}, ""},
		"one is made no more":           {[]edit{noMore}, "LS101: " + gone},
		"and nothing prunes the set":    {[]edit{{"base:root.yaml", "prune: true", "prune: false"}, noMore}, "LS101: " + gone},
		"and what it deployed stays":    {[]edit{says("preserveResourcesOnDeletion: true"), noMore}, left},
		"and the set deletes nothing":   {[]edit{says("applicationsSync: create-update"), noMore}, left},
		"and the set deletes":           {[]edit{says("applicationsSync: create-delete"), noMore}, "LS101: " + gone},
		"and it has a finalizer itself": {[]edit{{"base:apps/shop.yaml", "metadata: {name: \"{{name}}\"}", "metadata: {name: \"{{name}}\", finalizers: [acme.example/mine]}"}, noMore}, left},
		"what it is made of is not known any more": {[]edit{{"apps/shop.yaml", "{list: {elements: [{name: shop}, {name: store}]}}", "{clusters: {}}"}},
			"LS101 LS101: may-be-deleted shop/files 40Gi, may-be-deleted store/files 40Gi, left-behind shop/data-db-{0..2} 10Gi, " + left[:len("left-behind store/data-db-{0..2} 10Gi")]},
		"the set leaves": {[]edit{{"apps/shop.yaml", "whole", ""}}, "LS101 LS101: deleted shop/files 40Gi, deleted store/files 40Gi, left-behind shop/data-db-{0..2} 10Gi, left-behind store/data-db-{0..2} 10Gi"},
		"the set leaves, and nothing prunes it": {[]edit{{"base:root.yaml", "prune: true", "prune: false"}, {"apps/shop.yaml", "whole", ""}},
			"left-behind shop/data-db-{0..2} 10Gi, left-behind shop/files 40Gi, left-behind store/data-db-{0..2} 10Gi, left-behind store/files 40Gi"},
	} {
		t.Run(name, func(t *testing.T) { c.run(t, sets) })
	}
}

const files = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: files, namespace: shop}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 5Gi}}}}\n"

// loose is a repository with an ApplicationSet that nobody deploys, which makes an Application of each directory.
func loose() map[string]string {
	return map[string]string{
		"apps/shop/files.yaml":  files,
		"apps/store/files.yaml": strings.ReplaceAll(files, "shop", "store"),
		"bootstrap/set.yaml":    strings.ReplaceAll(fork()["apps/set.yaml"], "upstream.git", "fleet.git"),
	}
}

// TestCommitsOfLooseSets: such a set, which somebody has applied once, deletes what it makes no more as one of Git does.
func TestCommitsOfLooseSets(t *testing.T) {
	gone := edit{"apps/store/files.yaml", "whole", ""}
	for name, c := range map[string]pairOfCommits{
		"nothing":                     {[]edit{{"README.md", "", "hello"}}, ""},
		"one is made no more":         {[]edit{gone}, "LS101: deleted store/files 5Gi"},
		"and the set deletes nothing": {[]edit{{"base:bootstrap/set.yaml", "  template:", "  syncPolicy: {applicationsSync: create-update}\n  template:"}, gone}, "left-behind store/files 5Gi"},
		"the set leaves":              {[]edit{{"bootstrap/set.yaml", "whole", ""}}, "LS106 LS106: may-be-deleted shop/files 5Gi, may-be-deleted store/files 5Gi"},
	} {
		t.Run(name, func(t *testing.T) { c.run(t, loose) })
	}
}

// fork is a repository with claims in directories, and a set whose generator reads the repository that it was forked from.
func fork() map[string]string {
	return map[string]string{
		"apps/shop/files.yaml": files,
		"apps/set.yaml": `apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: apps, namespace: argocd}
spec:
  generators: [{git: {repoURL: "https://git.example.com/upstream.git", revision: HEAD, directories: [{path: "apps/*"}]}}]
  template:
    metadata: {name: "{{path.basename}}"}
    spec:
      source: {repoURL: "https://git.example.com/upstream.git", path: "{{path}}", targetRevision: HEAD}
      destination: {server: "https://kubernetes.default.svc", namespace: "{{path.basename}}"}
      syncPolicy: {automated: {prune: true}}
`,
	}
}

// TestCommitsOfDirectories is TestCommits for what nobody is known to deploy, which something that was not rendered may yet do.
func TestCommitsOfDirectories(t *testing.T) {
	alone := edit{"base:apps/set.yaml", "whole", ""}
	gone := edit{"apps/shop/files.yaml", "whole", ""}
	for name, c := range map[string]pairOfCommits{
		"a claim leaves":                           {[]edit{alone, gone}, "left-behind shop/files 5Gi"},
		"a claim leaves what a set may deploy":     {[]edit{gone}, "LS101: may-be-deleted shop/files 5Gi"},
		"and the set leaves with it":               {[]edit{{"apps/set.yaml", "whole", ""}, gone}, "LS101: may-be-deleted shop/files 5Gi"},
		"a claim moves":                            {[]edit{alone, gone, {"store/files.yaml", "", files}}, ""},
		"a claim moves, and a set may deploy both": {[]edit{gone, {"store/files.yaml", "", files}}, "LS106: may-be-deleted shop/files 5Gi"},
		"one of two of a name, of which nothing changes": {[]edit{alone, {"base:apps/shop/other.yaml", "", strings.Replace(files, "ReadWriteOnce", "ReadWriteMany", 1)},
			{"apps/shop/more.yaml", "", strings.Replace(files, "name: files", "name: more", 1)}}, ""},
		"two of a name move": {[]edit{alone, {"base:apps/shop/other.yaml", "", strings.Replace(files, "ReadWriteOnce", "ReadWriteMany", 1)}, gone, {"apps/shop/other.yaml", "whole", ""},
			{"store/files.yaml", "", files}, {"store/other.yaml", "", strings.Replace(files, "ReadWriteOnce", "ReadWriteMany", 1)}}, ""},
		"one of two of a name changes": {[]edit{alone, {"base:apps/shop/other.yaml", "", files}, {"apps/shop/other.yaml", "ReadWriteOnce", "ReadWriteMany"}, {"apps/shop/files.yaml", "ReadWriteOnce", "ReadWriteMany"}},
			"LS105"},
	} {
		t.Run(name, func(t *testing.T) { c.run(t, fork) })
	}
}

func TestCommitsOfReleases(t *testing.T) {
	for name, c := range map[string]pairOfCommits{
		"nothing":               {[]edit{{"README.md", "", "hello"}}, ""},
		"a value of the chart":  {[]edit{{"apps/shop/release.yaml", "persistence: true", "persistence: false"}}, "LS101: deleted shop/cache-data 5Gi"},
		"a value that keeps it": {[]edit{{"base:apps/shop/release.yaml", "keep: false", "keep: true"}, {"apps/shop/release.yaml", "persistence: true", "persistence: false"}}, "left-behind shop/cache-data 5Gi"},
		"a release is renamed":  {[]edit{{"apps/shop/release.yaml", "name: cache,", "name: store,"}}, "LS102: deleted shop/cache-data 5Gi"},
		"a chart that fails":    {[]edit{{"chart/templates/all.yaml", "{{- end }}", ""}}, "LS101: may-be-deleted shop/cache-data 5Gi"},
	} {
		t.Run(name, func(t *testing.T) { c.run(t, release) })
	}
}

type pairOfCommits struct {
	edits []edit
	want  string
}

func (c pairOfCommits) run(t *testing.T, from func() map[string]string) {
	t.Parallel()
	base, head := from(), from()
	for _, e := range c.edits {
		files := []map[string]string{head}
		if rest, both := strings.CutPrefix(e.file, "base:"); both {
			e.file, files = rest, []map[string]string{base, head}
		}
		for _, f := range files {
			e.in(t, f)
		}
	}
	r := compare(t, base, head)
	var rules, impact []string
	for _, f := range r.Findings {
		if strings.HasPrefix(f.Rule, "LS1") || f.Rule == "LS205" || f.Rule == "LS206" {
			rules = append(rules, f.Rule)
		}
		if f.File == "" || f.Line == 0 {
			t.Errorf("%s has no place", f.Rule)
		}
	}
	for _, i := range r.Impact {
		impact = append(impact, fmt.Sprintf("%s %s/%s %s", i.Effect, i.Namespace, i.Volume, i.Size))
	}
	slices.Sort(rules)
	got := strings.Join(append(rules, impact...), " ")
	wanted := strings.NewReplacer(":", "", ",", "").Replace(c.want)
	if got != wanted {
		t.Errorf("got  %s\nwant %s", got, wanted)
		for _, f := range r.Findings {
			t.Logf("%s %s:%d %s", f.Rule, f.File, f.Line, f.Message)
		}
		for _, g := range r.NotRendered {
			t.Logf("not rendered: %s: %s", g.What, g.Why)
		}
	}
}

func (e edit) in(t *testing.T, files map[string]string) {
	t.Helper()
	switch text := files[e.file]; {
	case e.old == "":
		files[e.file] = e.now
	case e.old == "whole":
		delete(files, e.file)
	case !strings.Contains(text, e.old):
		t.Fatalf("%s has no %q", e.file, e.old)
	default:
		files[e.file] = strings.Replace(text, e.old, e.now, 1)
	}
}

// compare makes two commits and checks the second against the first, rendering what differs and what is then asked for.
func compare(t *testing.T, base, head map[string]string) coverage.Report {
	t.Helper()
	dir := t.TempDir()
	repository, err := gogit.PlainInit(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	commits := []string{commit(t, repository, dir, base), commit(t, repository, dir, head)}
	opened, err := git.Open(dir, git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var rendered []*render.Repository
	for _, hash := range commits {
		rev, err := opened.Resolve(t.Context(), git.Ref{Commit: hash}, ".")
		if err != nil {
			t.Fatal(err)
		}
		files := t.TempDir()
		if err := opened.Materialise(t.Context(), rev, files); err != nil {
			t.Fatal(err)
		}
		r, err := render.Discover(t.Context(), render.Commit{Root: files}, render.Options{URLs: []string{"https://git.example.com/fleet.git"}})
		if err != nil {
			t.Fatal(err)
		}
		rendered = append(rendered, r)
	}
	var wanted []string
	for range 3 {
		in := coverage.Input{Now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
		in.Base, in.Head = state(t, rendered[0], rendered[1], wanted), state(t, rendered[1], rendered[0], wanted)
		r := coverage.Check(in)
		if len(r.Wanted) == 0 {
			return r
		}
		wanted = append(wanted, r.Wanted...)
	}
	t.Fatal("it always wants more")
	return coverage.Report{}
}

func state(t *testing.T, r, other *render.Repository, wanted []string) *desired.State {
	t.Helper()
	hashes := map[string]string{}
	for _, o := range other.Owners() {
		hashes[o.ID] = o.Hash
	}
	s, err := r.Render(t.Context(), func(o desired.Owner) bool {
		return o.Hash != "" && hashes[o.ID] == o.Hash && !slices.Contains(wanted, o.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func commit(t *testing.T, r *gogit.Repository, dir string, files map[string]string) string {
	t.Helper()
	w, err := r.Worktree()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveGlob("*"); err != nil && !errors.Is(err, gogit.ErrGlobNoMatches) {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Add(name); err != nil {
			t.Fatal(err)
		}
	}
	hash, err := w.Commit("a commit", &gogit.CommitOptions{AllowEmptyCommits: true, Author: &object.Signature{Name: "a", Email: "a@example.com", When: time.Unix(0, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	return hash.String()
}

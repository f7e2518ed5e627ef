package coverage

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

func podOf(kind, name, spec string) string {
	api := "apps/v1"
	if kind == "Job" {
		api = "batch/v1"
	}
	return "apiVersion: " + api + "\nkind: " + kind + "\nmetadata: {namespace: shop, name: " + name + "}\nspec:\n  selector: {matchLabels: {app: " + name +
		"}}\n  template:\n    metadata: {labels: {app: " + name + "}}\n    spec: " + spec + "\n"
}

func container(image, more string) string {
	return "{containers: [{name: c, image: \"" + image + "\"" + more + "}]"
}

const (
	cnpg     = "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {namespace: shop, name: orders}\nspec: {instances: 3}\n"
	monitor  = "apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {namespace: shop, name: web}\nspec: {}\n"
	definer  = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: servicemonitors.monitoring.coreos.com}\nspec: {group: monitoring.coreos.com, names: {kind: ServiceMonitor}}\n"
	needs    = ", env: [{name: A, valueFrom: {secretKeyRef: {name: login, key: a}}}]"
	classed  = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {namespace: shop, name: data}\nspec: {storageClassName: manual, resources: {requests: {storage: 1Gi}}}\n"
	needless = ", env: [{name: A, valueFrom: {secretKeyRef: {name: login, key: a, optional: true}}}]"
)

// TestRules are cases of one rule each: what must be found, with its severity, and near misses (no want) that must not.
func TestRules(t *testing.T) {
	remoteBase := func(url string) string { return gap("Kustomization flux-system/apps", url) }
	for name, c := range map[string]struct{ rule, head, want string }{
		"a claim of elsewhere":                   {"LS001", webOf("data"), "error"},
		"a claim of elsewhere, and a policy":     {"LS001", join(webOf("data"), protect()), ""},
		"a claim of elsewhere, and labels":       {"LS001", join(webOf("data"), protect("volumes: {selector: {matchLabels: {app: web}}}")), "error"},
		"a claim of a template":                  {"LS001", join(webOf("data-db-0"), statefulset("shop", "db", "data"), protect("volumes: {selector: {matchLabels: {app: db}}}")), ""},
		"a volume with the name of a template":   {"LS001", join(strings.Replace(statefulset("shop", "db", "data"), "spec: {containers", "spec: {volumes: [{name: data, persistentVolumeClaim: {claimName: other}}], containers", 1), protect("volumes: {selector: {matchLabels: {app: db}}}")), ""},
		"a volume with another name":             {"LS001", join(strings.Replace(statefulset("shop", "db", "data"), "spec: {containers", "spec: {volumes: [{name: more, persistentVolumeClaim: {claimName: other}}], containers", 1), protect("volumes: {selector: {matchLabels: {app: db}}}")), "error"},
		"a claim of an operator":                 {"LS001", join(webOf("orders-1"), cnpg), ""},
		"a claim of an unknown operator":         {"LS001", join(webOf("a-pvc"), grafana), ""},
		"a claim of another than the operator":   {"LS001", join(webOf("data"), grafana), "error"},
		"a claim whose name is a variable":       {"LS001", webOf(`"${CLAIM}"`), ""},
		"a suspended policy":                     {"LS001", join(pvc("shop", "data"), protect("schedule: 0 * * * *", "suspend: true")), "error"},
		"a suspended policy, and another":        {"LS001", join(pvc("shop", "data"), protect("suspend: true"), strings.Replace(protect(), "name: shop", "name: more", 1)), ""},
		"a suspended policy that runs on deploy": {"LS001", join(pvc("shop", "data"), protect("suspend: true", "onDeploy: After")), ""},
		"a policy that Flux does not apply":      {"LS001", join(pvc("shop", "data"), strings.Replace(protect(), "name: shop", "name: shop, annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}", 1)), "error"},
		"a policy that is a hook":                {"LS001", join(pvc("shop", "data"), strings.Replace(protect(), "name: shop", "name: shop, annotations: {argocd.argoproj.io/hook: PreSync}", 1)), "error"},
		"a policy that is not brought now":       {"LS001", join(pvc("shop", "data"), kustomization("idle", "suspend: true"), protect()), "error"},
		"a volume that is not, either":           {"LS001", join(kustomization("idle", "suspend: true"), pvc("shop", "data"), protect()), ""},
		"a policy of another namespace":          {"LS001", join(pvc("shop", "data"), strings.Replace(protect(), "namespace: shop", "namespace: x", 1)), "error"},
		"a set with the labels of its template":  {"LS001", join(statefulset("shop", "db", "data"), protect("volumes: {selector: {matchLabels: {app: db}}}")), ""},
		"a set in a policy by labels of pods":    {"LS001", join(strings.Replace(statefulset("shop", "db", "data"), "metadata: {labels: {app: db}}", "metadata: {labels: {app: db, pod: a}}", 1), protect("volumes: {selector: {matchLabels: {pod: a}}}")), "error"},
		"an exclusion without reason":            {"LS001", join(pvc("shop", "data", `annotations: {lockstep.dev/exclude: " "}`), protect()), "error"},
		"a policy that cannot be read":           {"LS001", join(pvc("shop", "data"), protect("volumes: all")), "error"},
		"a selector that is none":                {"LS001", join(pvc("shop", "data"), protect("volumes: {selector: {matchExpressions: [{key: a, operator: Like}]}}")), "error"},
		"an ephemeral volume":                    {"LS001", podOf("Deployment", "web", container("web", "")+", volumes: [{name: a, ephemeral: {volumeClaimTemplate: {spec: {}}}}]}"), ""},
		"a set whose replicas are a variable":    {"LS001", statefulset("shop", "db", "data", "replicas: ${N}"), "error"},
		"a claim whose size is a variable":       {"LS001", pvc("shop", "data", "resources: {requests: {storage: \"${SIZE}\"}}"), "error"},
		"a million replicas":                     {"LS001", join(statefulset("shop", "db", "data", "replicas: 2000000000"), protect()), ""},

		"a suspended policy that selects":   {"LS002", join(pvc("shop", "d"), protect("suspend: true")), ""},
		"a policy beside an operator":       {"LS002", join(cnpg, protect()), ""},
		"a policy for an operator":          {"LS002", join(cnpg, protect("volumes: {selector: {matchLabels: {cnpg.io/cluster: orders}}}")), ""},
		"a policy for a claim of elsewhere": {"LS002", join(webOf("data"), protect("volumes: {selector: {matchLabels: {app: web}}}")), ""},
		"a policy for another cluster":      {"LS002", join(cnpg, protect("volumes: {selector: {matchLabels: {cnpg.io/cluster: o}}}")), "error"},
		"a policy beside what is not seen":  {"LS002", join(protect(), gap("", "chart x")), "note"},

		"a schedule with a gap at night":   {"LS003", join(pvc("shop", "d"), protect("schedule: 0 9-17 * * *", "objectives: {rpo: 2h}")), "error"},
		"a schedule as long as promised":   {"LS003", join(pvc("shop", "d"), protect("schedule: 0 * * * *", "objectives: {rpo: 1h}")), ""},
		"a schedule on weekdays":           {"LS003", join(pvc("shop", "d"), protect("schedule: 0 0 * * 1-5", "objectives: {rpo: 24h}")), "error"},
		"a monthly schedule":               {"LS003", join(pvc("shop", "d"), protect("schedule: 0 0 1 * *", "objectives: {rpo: 744h}")), ""},
		"a monthly schedule, for 30 days":  {"LS003", join(pvc("shop", "d"), protect("schedule: 0 0 1 * *", "objectives: {rpo: 720h}")), "error"},
		"a schedule that is none":          {"LS003", join(pvc("shop", "d"), protect("schedule: hourly", "objectives: {rpo: 1h}")), "error"},
		"a schedule that is a variable":    {"LS003", join(pvc("shop", "d"), protect("schedule: ${CRON}", "objectives: {rpo: 1h}")), "note"},
		"a promise and no schedule":        {"LS003", join(pvc("shop", "d"), protect("objectives: {rpo: 1h}")), "error"},
		"a promise and a suspended policy": {"LS003", join(pvc("shop", "d"), protect("schedule: 0 * * * *", "suspend: true", "objectives: {rpo: 1h}")), "error"},
		"no promise":                       {"LS003", join(pvc("shop", "d"), protect("objectives: {rto: 1h}")), ""},

		"two vaults in one bucket":  {"LS004", join(pvc("shop", "d"), protect(), vaultIn("a", "one"), vaultIn("b", "one")), "warning"},
		"two vaults in two buckets": {"LS004", join(pvc("shop", "d"), protect(), vaultIn("a", "one"), vaultIn("b", "two")), ""},

		"a hook for other pods":          {"LS005", join(statefulset("shop", "db", "data"), protect(`quiesce: [{selector: {matchLabels: {app: x}}, pre: [a], post: [b]}]`)), "warning"},
		"a database nobody saves":        {"LS005", statefulset("shop", "db", "data"), ""},
		"no database":                    {"LS005", join(pvc("shop", "data"), webOf("data"), protect()), ""},
		"an exporter for a database":     {"LS005", join(strings.ReplaceAll(statefulset("shop", "db", "data"), "postgres:16.4", "prometheuscommunity/postgres-exporter:1"), protect()), ""},
		"a drill of the kind":            {"LS006", join(pvc("shop", "d"), protect(), "apiVersion: lockstep.dev/v1alpha1\nkind: Drill\nmetadata: {namespace: shop, name: d}\nspec: {policyRef: {name: shop}}\n"), ""},
		"a drill of another policy":      {"LS006", join(pvc("shop", "d"), protect(), "apiVersion: lockstep.dev/v1alpha1\nkind: Drill\nmetadata: {namespace: shop, name: d}\nspec: {policyRef: {name: x}}\n"), "note"},
		"a class that nothing uses":      {"LS201", join(strings.Replace(retaining, "reclaimPolicy: Retain\n", "", 1), pvc("shop", "d")), ""},
		"a class that says so":           {"LS201", join(strings.Replace(retaining, "Retain", "Delete", 1), pvc("shop", "d", "storageClassName: keep")), "warning"},
		"a database with a scratch":      {"LS202", podOf("Deployment", "db", container("mysql:8", ", volumeMounts: [{name: t, mountPath: /tmp}, {name: d, mountPath: /var/lib/mysql}]")+", volumes: [{name: t, emptyDir: {}}, {name: d, persistentVolumeClaim: {claimName: d}}]}"), ""},
		"a database in a subdirectory":   {"LS202", podOf("Deployment", "db", container("docker.io/bitnami/postgresql@sha256:00", ", volumeMounts: [{name: t, mountPath: /bitnami/postgresql/}]")+", volumes: [{name: t, emptyDir: {}}]}"), "error"},
		"a cache":                        {"LS202", podOf("Deployment", "db", container("redis:7", ", volumeMounts: [{name: t, mountPath: /data}]")+", volumes: [{name: t, emptyDir: {}}]}"), "warning"},
		"a cache without a volume":       {"LS202", podOf("Deployment", "db", container("redis:7", "")+"}"), ""},
		"a database without a volume":    {"LS202", podOf("Deployment", "db", container("localhost:5000/mariadb:11", "")+"}"), "error"},
		"a database with only a scratch": {"LS202", podOf("Deployment", "db", container("mongo:7", ", volumeMounts: [{name: t, mountPath: /tmp}]")+", volumes: [{name: t, emptyDir: {}}]}"), "error"},
		"a database in another place":    {"LS202", podOf("Deployment", "db", container("mongo:7", ", volumeMounts: [{name: t, mountPath: /mnt}]")+", volumes: [{name: t, persistentVolumeClaim: {claimName: d}}]}"), ""},
		"a dump":                         {"LS202", podOf("Job", "dump", container("postgres:16", ", command: [pg_dump]")+", restartPolicy: Never}"), ""},
		"a client that stays":            {"LS202", podOf("Deployment", "c", container("postgres:16", ", command: [sleep, infinity]")+"}"), ""},
		"a name like a database's":       {"LS202", podOf("Deployment", "c", container("acme/mongo-express:1", "")+"}"), ""},

		"an agent of nodes":                    {"LS203", podOf("DaemonSet", "a", container("a", ", volumeMounts: [{name: t, mountPath: /x}]")+", volumes: [{name: t, hostPath: {path: /srv}}]}"), ""},
		"a path that is read":                  {"LS203", podOf("Deployment", "a", container("a", ", volumeMounts: [{name: t, mountPath: /x, readOnly: true}]")+", volumes: [{name: t, hostPath: {path: /srv}}]}"), ""},
		"a socket":                             {"LS203", podOf("Deployment", "a", container("a", ", volumeMounts: [{name: t, mountPath: /x}]")+", volumes: [{name: t, hostPath: {path: /srv/s, type: Socket}}]}"), ""},
		"a path like a system's":               {"LS203", podOf("Deployment", "a", container("a", ", volumeMounts: [{name: t, mountPath: /x}]")+", volumes: [{name: t, hostPath: {path: /development}}]}"), "warning"},
		"a volume in a directory":              {"LS203", "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: a}\nspec: {hostPath: {path: /srv}}\n", "warning"},
		"an operator of object storage":        {"LS204", "apiVersion: minio.min.io/v2\nkind: Tenant\nmetadata: {namespace: shop, name: a}\nspec: {pools: [{servers: 4}]}\n", "warning"},
		"an operator without a hook":           {"LS204", join(cnpg, protect()), "warning"},
		"a Prometheus with volumes":            {"LS204", prometheus("{storage: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 10Gi}}}}}}"), "warning"},
		"a Prometheus with an emptyDir":        {"LS204", prometheus("{storage: {emptyDir: {medium: Memory}}}"), ""},
		"a Prometheus that says nothing":       {"LS204", prometheus("{replicas: 2}"), ""},
		"a Grafana with a claim":               {"LS204", grafana, "warning"},
		"a Grafana with a claim, and a policy": {"LS204", join(grafana, protect()), ""},
		"a Grafana with a claim, and labels":   {"LS204", join(grafana, protect("volumes: {selector: {matchLabels: {app: web}}}")), "warning"},
		"a Grafana without a claim":            {"LS204", "apiVersion: grafana.integreatly.org/v1beta1\nkind: Grafana\nmetadata: {namespace: shop, name: a}\nspec: {config: {}}\n", ""},
		"a runner with a work directory":       {"LS204", "apiVersion: example.org/v1\nkind: Runner\nmetadata: {namespace: shop, name: a}\nspec: {volumes: [{name: work, ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 1Gi}}}}}}]}\n", ""},
		"a disk of a virtual machine":          {"LS204", custom("VirtualMachine", "{dataVolumeTemplates: [{spec: {storage: {resources: {requests: {storage: 30Gi}}}}}]}"), "warning"},
		"a size in what stores":                {"LS204", custom("Store", "{shards: [{persistence: {enabled: true, size: 8Gi}}]}"), "note"},
		"a size beside a class":                {"LS204", custom("Store", "{size: 1x.small, storageClassName: fast}"), "note"},
		"a size in what stores, and a policy":  {"LS204", join(custom("Store", "{persistence: {size: 8Gi}}"), protect()), ""},
		"a size in what stores, and labels":    {"LS204", join(custom("Store", "{persistence: {size: 8Gi}}"), protect("volumes: {selector: {matchLabels: {app: web}}}")), "note"},
		"a size of something else":             {"LS204", custom("Store", "{resources: {requests: {memory: 8Gi}}, image: {size: 8Gi}, volume: {emptyDir: {sizeLimit: 8Gi}}, storageClassName: fast}"), ""},
		"a size of a cache":                    {"LS204", custom("Store", "{mover: {cache: {storageClass: fast, capacity: 8Gi}, scratch: {storage: 8Gi, storageClass: fast}}}"), ""},
		"a size in the values of a release":    {"LS204", "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {namespace: shop, name: a}\nspec: {values: {persistence: {size: 8Gi}}}\n", ""},
		"another kind of its name":             {"LS204", "apiVersion: cluster.x-k8s.io/v1\nkind: Cluster\nmetadata: {namespace: shop, name: a}\n", ""},

		"a digest without tag":             {"LS301", podOf("Deployment", "a", container("a@sha256:00", "")+"}"), ""},
		"a port that looks like a tag":     {"LS301", podOf("Deployment", "a", container("reg:5000/a", "")+"}"), "warning"},
		"a base by branch":                 {"LS302", remoteBase("https://git.example.com/x//base?ref=main"), "error"},
		"a base without ref":               {"LS302", remoteBase("github.com/acme/x//base"), "error"},
		"a base by tag":                    {"LS302", remoteBase("https://git.example.com/x//base?ref=v1.2.3"), "warning"},
		"a base by commit":                 {"LS302", remoteBase("https://git.example.com/x//base?timeout=90s&ref=0123456789abcdef0123456789abcdef01234567"), ""},
		"a file by branch":                 {"LS302", remoteBase("https://raw.githubusercontent.com/acme/x/refs/heads/master/deploy/v4.11.0/a.yaml"), "error"},
		"a file by tag":                    {"LS302", remoteBase("https://raw.githubusercontent.com/acme/x/refs/tags/v1.2.3/a.yaml"), "warning"},
		"a file by commit":                 {"LS302", remoteBase("https://raw.githubusercontent.com/acme/x/0123456789abcdef0123456789abcdef01234567/a.yaml"), ""},
		"a file of a release":              {"LS302", remoteBase("https://github.com/acme/x/releases/download/v1.2.3/install.yaml"), "warning"},
		"a file of GitLab by commit":       {"LS302", remoteBase("https://gitlab.com/acme/sub/x/-/raw/0123456789abcdef0123456789abcdef01234567/a.yaml"), ""},
		"the newest release":               {"LS302", remoteBase("https://github.com/acme/x/releases/latest/download/install.yaml"), "error"},
		"another gap":                      {"LS302", remoteBase("chart x"), ""},
		"an Application of a chart":        {"LS303", application("a", "", "source: {chart: redis, repoURL: https://charts.example.com, targetRevision: 1.*}"), "error"},
		"an Application of a version":      {"LS303", application("a", "", "source: {chart: redis, repoURL: https://charts.example.com, targetRevision: 1.2.3}"), ""},
		"an Application of a branch":       {"LS303", application("a", "", "source: {path: x, repoURL: https://git.example.com/a, targetRevision: HEAD}"), ""},
		"an Application of several charts": {"LS303", application("a", "", "sources: [{chart: redis, targetRevision: 1.2.3}, {chart: pg, targetRevision: \">=1\"}]"), "error"},
		"a chart in Git":                   {"LS303", release("a"), ""},
		"an artifact by range":             {"LS303", "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata: {namespace: a, name: a}\nspec: {ref: {semver: 1.x}}\n", "error"},
		"an artifact by digest":            {"LS303", "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata: {namespace: a, name: a}\nspec: {ref: {semver: 1.x, digest: sha256:00}}\n", ""},

		"a Secret in Git":                  {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), "apiVersion: v1\nkind: Secret\nmetadata: {namespace: shop, name: login}\n"), ""},
		"a Secret of elsewhere":            {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), "apiVersion: v1\nkind: Secret\nmetadata: {namespace: x, name: login}\n"), "error"},
		"a Secret that may be gone":        {"LS304", podOf("Deployment", "a", container("a", needless)+"}"), ""},
		"a Secret that is sealed":          {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {namespace: shop, name: login}\n"), ""},
		"a Secret by another name":         {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {namespace: shop, name: login}\nspec: {target: {name: other}}\n"), "error"},
		"a Secret of OpenShift":            {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: a, annotations: {service.beta.openshift.io/serving-cert-secret-name: login}}\n"), ""},
		"a Secret by OpenShift, elsewhere": {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), "apiVersion: v1\nkind: Service\nmetadata: {namespace: x, name: a, annotations: {service.beta.openshift.io/serving-cert-secret-name: login}}\n"), "error"},
		"a Secret of an operator":          {"LS304", join(cnpg, podOf("Deployment", "a", strings.Replace(container("a", needs), "login", "orders-app", 1)+"}")), ""},
		"a Secret that points keep":        {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), protect()), ""},
		"a Secret not seen":                {"LS304", join(podOf("Deployment", "a", container("a", needs)+"}"), gap("", "chart x")), "note"},

		"a key, and a policy elsewhere": {"LS305", join(protect(), pvc("shop", "d"), kustomization("a", "decryption: {provider: sops, secretRef: {name: k}}"), pvc("x", "d")), "warning"},
		"a key, and a policy beside":    {"LS305", join(protect(), kustomization("a", "decryption: {provider: sops, secretRef: {name: k}}"), pvc("shop", "d")), ""},
		"keys of the cloud":             {"LS305", join(kustomization("a", "decryption: {provider: sops}"), pvc("shop", "d")), ""},
		"a variable that may be gone":   {"LS307", kustomization("a", "postBuild: {substituteFrom: [{kind: Secret, name: v, optional: true}]}"), ""},
		"values of a release, twice":    {"LS307", strings.Replace(release("a"), "spec: {", "spec: {valuesFrom: [{kind: Secret, name: v, valuesKey: a}, {kind: Secret, name: v, valuesKey: b}], ", 1), "warning"},
		"values of a release":           {"LS307", strings.Replace(release("a"), "spec: {", "spec: {valuesFrom: [{kind: Secret, name: v}], ", 1), "warning"},
		"a class of elsewhere":          {"LS308", classed, "note"},
		"a class for a volume of Git":   {"LS308", join(classed, "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: a}\nspec: {storageClassName: manual, nfs: {server: a, path: /a}}\n"), ""},
		"a volume of another class":     {"LS308", join(classed, "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: a}\nspec: {storageClassName: other, nfs: {server: a, path: /a}}\n"), "note"},
		"a kind of elsewhere":           {"LS308", monitor, "note"},
		"a kind that Git defines":       {"LS308", join(monitor, definer), ""},
		"a kind of the engine":          {"LS308", kustomization("a"), ""},
		"a kind of the makers":          {"LS308", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {namespace: a, name: a}\n", ""},

		"an opt-out without reason": {"LS901", pvc("shop", "d", "annotations: {lockstep.dev/ignore: \"LS001:\"}"), "warning"},
		"an opt-out of nothing":     {"LS901", pvc("shop", "d", "annotations: {lockstep.dev/ignore: \"LS999: a\"}"), "warning"},
	} {
		t.Run(name, func(t *testing.T) {
			r := check(t, "", c.head)
			var got []string
			for _, f := range r.Findings {
				if f.Rule == c.rule {
					got = append(got, string(f.Severity))
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("found %q, want %q: %q", got, c.want, found(r, c.rule))
			}
		})
	}
}

func vaultIn(name, bucket string) string {
	return "apiVersion: lockstep.dev/v1alpha1\nkind: Vault\nmetadata: {name: " + name + "}\nspec: {s3: {bucket: " + bucket + "}}\n"
}

// TestNeverClaimsCoverage: what was not seen is named, and nobody's volume counts as protected or unprotected by it.
func TestNeverClaimsCoverage(t *testing.T) {
	for name, c := range map[string]struct {
		head string
		want []Answer // of the table; Unknown first for what the report names as not rendered
	}{
		"seen":                              {join(pvc("shop", "data"), protect()), []Answer{Protected}},
		"left out":                          {join(pvc("shop", "data", "annotations: {lockstep.dev/exclude: a cache}"), protect()), []Answer{Excluded}},
		"not":                               {pvc("shop", "data"), []Answer{Unprotected}},
		"not as far as is seen":             {join(pvc("shop", "data"), gap("", "x")), []Answer{Unknown, Unknown}},
		"beside what is not seen":           {join(pvc("shop", "data"), protect(), gap("", "x")), []Answer{Unknown, Protected}},
		"beside what goes elsewhere":        {join(kustomization("k", "targetNamespace: x"), kustomization("l"), pvc("shop", "data"), gap("Kustomization flux-system/k", "x")), []Answer{Unknown, Unprotected}},
		"beside a chart for elsewhere":      {join(application("k", "", "destination: {namespace: x}", "source: {chart: c}"), kustomization("l"), pvc("shop", "data"), gap("Application argocd/k", "x")), []Answer{Unknown, Unprotected}},
		"beside files that may be for it":   {join(application("k", "", "destination: {namespace: x}", "source: {path: policies}"), kustomization("l"), pvc("shop", "data"), gap("Application argocd/k", "x")), []Answer{Unknown, Unknown}},
		"by a policy that cannot be read":   {join(pvc("shop", "data"), protect("suspend: maybe")), []Answer{Unknown, Unknown}},
		"by a selector that is none":        {join(pvc("shop", "data"), protect("volumes: {selector: {matchExpressions: [{key: a, operator: Like}]}}")), []Answer{Unknown}},
		"with a label that is a variable":   {join(pvc("shop", "data", "labels: {app: \"${APP}\"}"), protect("volumes: {selector: {matchLabels: {app: a}}}")), []Answer{Unknown}},
		"a set that cannot be read":         {join(strings.ReplaceAll(statefulset("shop", "db", "data"), "volumeClaimTemplates:", "volumeClaimTemplates: 1\n  x:"), protect()), []Answer{Unknown}},
		"made by an operator":               {cnpg, []Answer{Unprotected}},
		"made by one, as far as is seen":    {join(cnpg, gap("", "x")), []Answer{Unknown, Unknown}},
		"made by one, and unread":           {join(cnpg, protect("suspend: maybe")), []Answer{Unknown, Unknown}},
		"made by one, suspended":            {join(cnpg, protect("suspend: true")), []Answer{Unprotected}},
		"made by one, suspended and not":    {join(cnpg, protect("suspend: true"), strings.Replace(protect(), "name: shop}", "name: z}", 1)), []Answer{Protected}},
		"made by an operator, selected":     {join(cnpg, protect("volumes: {selector: {matchLabels: {cnpg.io/cluster: orders}}}")), []Answer{Unknown}},
		"made by an operator, all selected": {join(cnpg, protect()), []Answer{Protected}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []Answer
			report := check(t, "", c.head)
			for range report.NotRendered {
				got = append(got, Unknown)
			}
			for _, row := range report.Coverage {
				got = append(got, row.Answer)
				if row.Answer != Protected && row.Why == "" {
					t.Errorf("%s does not say why", row.Volume)
				}
				if unread := strings.Contains(c.head, "maybe"); unread != strings.Contains(row.Why, "cannot be read: it does not have the shape of its kind: spec.suspend is not to be of the type string") {
					t.Errorf("%s: %s", row.Volume, row.Why)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestClusters: a policy protects nothing in another cluster.
func TestClusters(t *testing.T) {
	state := func(clusters [2]string, root string) *desired.State {
		s := stateOf(t, join(strings.ReplaceAll(kustomization("prod"), "metadata: {", "metadata: {annotations: {test/parent: "+root+"}, "), pvc("shop", "data"), protect(),
			strings.ReplaceAll(kustomization("staging"), "metadata: {", "metadata: {annotations: {test/parent: "+root+"}, "), pvc("shop", "data")))
		for i := range s.Owners {
			if s.Owners[i].Name == "prod" {
				s.Owners[i].Cluster = clusters[0]
			} else {
				s.Owners[i].Cluster = clusters[1]
			}
		}
		return s
	}
	for name, c := range map[string]struct {
		state *desired.State
		want  int
	}{
		"two clusters by name":               {state([2]string{"prod", "staging"}, rootID), 1},
		"two roots that have the same":       {state([2]string{"", ""}, "none"), 1},
		"one cluster, in which both deploy":  {state([2]string{"prod", "prod"}, "none"), 0},
		"one root, of which both are a part": {state([2]string{"", ""}, rootID), 0},
	} {
		if got := found(Check(Input{Head: c.state, Now: now}), "LS001"); len(got) != c.want {
			t.Errorf("%s: found %q, want %d", name, got, c.want)
		}
	}
}

// TestSkipped: what was not rendered since it is the same in both commits makes answers unknown, and is asked for.
func TestSkipped(t *testing.T) {
	head, base := join(kustomization("data"), pvc("shop", "data"), podOf("Deployment", "a", container("a", needs)+"}"), monitor, kustomization("rest")),
		join(kustomization("data"), pvc("shop", "data"), monitor, kustomization("rest"))
	in := Input{Head: stateOf(t, head), Base: stateOf(t, base), Now: now}
	for _, s := range []*desired.State{in.Head, in.Base} {
		for i := range s.Owners {
			s.Owners[i].Skipped = s.Owners[i].Name == "rest"
		}
	}
	r := Check(in)
	if want := []string{"Kustomization flux-system/rest"}; !slices.Equal(r.Wanted, want) || !slices.Equal(r.Unchanged, want) {
		t.Errorf("wanted %q, unchanged %q", r.Wanted, r.Unchanged)
	}
	if r.Coverage[0].Answer != Unknown || len(found(r, "LS308")) > 0 || len(found(r, "LS304")) != 1 || !strings.HasPrefix(found(r, "LS304")[0], "note") {
		t.Errorf("%+v\n%+v", r.Coverage, r.Findings)
	}
	in.Head, in.Base = stateOf(t, join(head, protect())), stateOf(t, join(base, protect()))
	if r := Check(in); len(r.Wanted) > 0 || r.Coverage[0].Answer != Protected || len(found(r, "LS304")) > 0 {
		t.Errorf("rendered, too: %q, %+v", r.Wanted, r.Coverage)
	}
}

func TestFacts(t *testing.T) {
	claimOf := func(name string, more ...func(*corev1.PersistentVolumeClaim)) corev1.PersistentVolumeClaim {
		c := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{}, Labels: map[string]string{}}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
		for _, m := range more {
			m(&c)
		}
		return c
	}
	policyWith := func(name string, taken time.Time) v1alpha1.ProtectionPolicy {
		p := v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		p.Spec.Volumes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
		p.Spec.Objectives = &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: time.Hour}}
		if !taken.IsZero() {
			p.Status.LastPoint = &v1alpha1.PointReference{Taken: metav1.Time{Time: taken}}
		}
		return p
	}
	live := &Live{
		Claims: []corev1.PersistentVolumeClaim{claimOf("bare"), claimOf("out", func(c *corev1.PersistentVolumeClaim) { c.Annotations[v1alpha1.AnnotationExclude] = "a cache" }),
			claimOf("mute", func(c *corev1.PersistentVolumeClaim) { c.Annotations[v1alpha1.AnnotationExclude] = "" }),
			claimOf("ours", func(c *corev1.PersistentVolumeClaim) { c.Labels[v1alpha1.LabelManagedBy] = "lockstep" }),
			claimOf("db", func(c *corev1.PersistentVolumeClaim) { c.Labels["app"] = "db" })},
		Volumes: []corev1.PersistentVolume{
			{ObjectMeta: metav1.ObjectMeta{Name: "left"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: "Retain"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased}},
			{ObjectMeta: metav1.ObjectMeta{Name: "used"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: "Retain"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}},
			{ObjectMeta: metav1.ObjectMeta{Name: "going"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: "Delete"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased}},
		},
		Classes:  []storagev1.StorageClass{{ObjectMeta: metav1.ObjectMeta{Name: "gp3"}}},
		Policies: []v1alpha1.ProtectionPolicy{policyWith("fresh", now.Add(-30*time.Minute)), policyWith("old", now.Add(-2*time.Hour)), policyWith("never", time.Time{})},
		Mounted:  map[object.Name]bool{{Namespace: "shop", Name: "bare"}: true, {Namespace: "shop", Name: "db"}: true, {Namespace: "shop", Name: "mute"}: true},
		Kinds:    []schema.GroupKind{{Group: "monitoring.coreos.com", Kind: "ServiceMonitor"}},
		Missing:  []string{"pods: forbidden"},
	}
	head := stateOf(t, join(protect(), pvc("shop", "a", "storageClassName: gp3"), pvc("shop", "b", "storageClassName: gp2"), monitor, cnpg))
	r := Check(Input{Head: head, Now: now, Facts: Facts{Live: live,
		Unstable: []Unstable{{Owner: "Kustomization flux-system/apps", Object: Object{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "a"}}},
		Points:   []PointFacts{{Policy: object.Name{Namespace: "shop", Name: "shop"}, Vault: "a", Found: "unknown", Why: "it does not answer"}, {Policy: object.Name{Namespace: "shop", Name: "x"}, Found: "found"}}}})
	for rule, want := range map[string][]string{
		"LS306": {"warning PersistentVolumeClaim shop/a: two renderings of this commit give PersistentVolumeClaim a differently"},
		"LS308": {"error CustomResourceDefinition /Cluster.postgresql.cnpg.io: the cluster must know the kind Cluster.postgresql.cnpg.io, which Git does not define; Cluster orders is of it",
			"error StorageClass /gp2: the cluster must have the StorageClass gp2, which Git does not bring; shop/b asks for it"},
		"LS401": {"error Cluster /: the cluster was not asked for everything, so that it is not known what is unprotected there: pods: forbidden",
			"error PersistentVolumeClaim shop/bare: the claim shop/bare is in the cluster, and no policy there protects it", "error PersistentVolumeClaim shop/mute: the claim shop/mute is in the cluster, and no policy there protects it"},
		"LS402": {"error ProtectionPolicy shop/never: the policy shop/never promises an RPO of 1h and has no good point at all", "error ProtectionPolicy shop/old: the newest good point of the policy shop/old is 2h old, and an RPO of 1h is promised"},
		"LS403": {"warning PersistentVolume /left: the volume left holds data and is in no claim", "warning PersistentVolumeClaim shop/out: nothing uses the claim shop/out"},
		"LS404": {"error ProtectionPolicy shop/shop: there is no point from which this commit of shop could be restored today (a: it does not answer)"},
	} {
		got := found(r, rule)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", rule, got, want)
		}
	}
	r = Check(Input{Head: head, Now: now, Facts: Facts{Points: []PointFacts{{Policy: object.Name{Namespace: "shop", Name: "shop"}, Vault: "a", Found: "absent"}, {Policy: object.Name{Namespace: "shop", Name: "shop"}, Vault: "b", Found: "found", ID: "p"}}}})
	if len(found(r, "LS404")) > 0 || r.Coverage[1].Point == nil || r.Coverage[1].Point.ID != "p" {
		t.Errorf("a point in the second vault: %q, %+v", found(r, "LS404"), r.Coverage)
	}
	r = Check(Input{Head: head, Now: now, Facts: Facts{Points: []PointFacts{{Policy: object.Name{Namespace: "shop", Name: "shop"}, Owner: "another", Vault: "a", Found: "found", ID: "p"}}}})
	if len(found(r, "LS404")) != 1 || r.Coverage[1].Point != nil {
		t.Errorf("a point of another cluster: %q, %+v", found(r, "LS404"), r.Coverage)
	}
}

func TestReplayable(t *testing.T) {
	pinned := podOf("Deployment", "a", container("a@sha256:00", "")+"}")
	chart := "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {namespace: shop, name: r}\nspec: {chart: {spec: {chart: redis, version: 1.2.3, sourceRef: {kind: HelmRepository, name: r}}}}\n"
	for name, c := range map[string]struct {
		head string
		want Replay
	}{
		"all is fixed":           {pinned, ReplayYes},
		"a tag":                  {strings.ReplaceAll(pinned, "@sha256:00", ":1"), ReplayWithLockfile},
		"a chart of elsewhere":   {join(chart, gap("HelmRelease shop/r", "chart redis")), ReplayWithLockfile},
		"something not rendered": {join(pinned, gap("", "x")), ReplayNo},
		"a Secret that is not":   {podOf("Deployment", "a", container("a@sha256:00", needs)+"}"), ReplayNo},
	} {
		if r := check(t, "", c.head); r.Replayable.Answer != c.want || (c.want == ReplayYes) != (len(r.Replayable.Reasons) == 0) {
			t.Errorf("%s: %+v, want %s", name, r.Replayable, c.want)
		}
	}
	in := Input{Head: stateOf(t, strings.ReplaceAll(pinned, "@sha256:00", ":1")), Now: now, Config: Config{Rules: map[string]Severity{"LS301": Off}}}
	if r := Check(in); r.Replayable.Answer != ReplayWithLockfile || len(r.Findings) > 0 {
		t.Errorf("silenced: %+v, %+v", r.Replayable, r.Findings)
	}
}

func TestMajor(t *testing.T) {
	for image, want := range map[string]string{
		"postgres:16.4": "16", "postgres:9.6.2": "9.6", "postgres:16": "16", "postgres:16-alpine": "16", "timescale/timescaledb:2.1-pg16": "16", "pgvector/pgvector:pg17": "17", "postgres": "", "postgres:latest": "",
		"postgres@sha256:00": "", "mysql:8.0.36": "8.0", "mysql:8": "", "mariadb:10.11": "10.11", "mongo:4.4": "4.4", "mongo:7": "7", "localhost:5000/redis:v7.2": "7", "bitnami/etcd:3.5": "3",
	} {
		d := databaseOf(image)
		if d == nil {
			t.Errorf("%s is not known", image)
		} else if got := d.major(parseImage(image).tag); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	for _, image := range []string{"acme/postgres-exporter:1", "mongo-express:1", "redis-exporter", "acme/web", "", "server:1", "foo/server:1"} {
		if d := databaseOf(image); d != nil {
			t.Errorf("%s is taken for %s", image, d.Name)
		}
	}
}

// grafana is of an operator that is not among those that are known.
const grafana = "apiVersion: grafana.integreatly.org/v1beta1\nkind: Grafana\nmetadata: {namespace: shop, name: a}\nspec: {persistentVolumeClaim: {spec: {resources: {requests: {storage: 10Gi}}}}}\n"

func prometheus(spec string) string {
	return "apiVersion: monitoring.coreos.com/v1\nkind: Prometheus\nmetadata: {namespace: shop, name: app}\nspec: " + spec + "\n"
}

// TestOnRequest: what nobody asks for is not made, and the table does not hide it.
func TestOnRequest(t *testing.T) {
	for want, spec := range map[bool][]string{true: {"objectives: {rto: 1h}"}, false: {"schedule: 0 * * * *"}} {
		rows := Check(Input{Head: stateOf(t, join(pvc("shop", "data"), cnpg, protect(spec...))), Now: now}).Coverage
		for _, r := range rows {
			if r.Answer != Protected || r.OnRequest != want {
				t.Errorf("with %q: %+v", spec, r)
			}
		}
		if len(rows) != 2 {
			t.Errorf("with %q: %d rows", spec, len(rows))
		}
	}
}

func custom(kind, spec string) string {
	return "apiVersion: db.example.com/v1\nkind: " + kind + "\nmetadata: {namespace: shop, name: a}\nspec: " + spec + "\n"
}

// TestVolumesThatMayBeMade has an object of a kind that is not known, which looks as if it had volumes: nothing is certain, and that is said.
func TestVolumesThatMayBeMade(t *testing.T) {
	store := custom("Store", "{persistence: {size: 8Gi}}")
	r := check(t, join(store, other), other)
	if len(r.Impact) != 1 || r.Impact[0].Effect != MayBeDeleted || r.Impact[0].Volume != "volumes that its operator may make for Store a" || dataRules(r)[0] != "LS101 warning" {
		t.Errorf("of one that goes is said: %+v, %v", r.Impact, dataRules(r))
	}
	if r := check(t, "", store); len(r.Coverage) != 1 || r.Coverage[0].Answer != Unknown {
		t.Errorf("the table has %+v", r.Coverage)
	}
	if r := check(t, "", join(store, protect())); len(r.Coverage) != 1 || r.Coverage[0].Answer != Protected {
		t.Errorf("with a policy for all the table has %+v", r.Coverage)
	}
}

// What was not rendered may bring what is missing.
func TestMissingAsFarAsRendered(t *testing.T) {
	for text, want := range map[string][]string{
		join(classed, monitor):                             {"which Git does not bring", "which Git does not define"},
		join(classed, monitor, gap("", "chart operators")): {"which nothing that was rendered brings", "which nothing that was rendered defines"},
	} {
		got := found(Check(Input{Head: stateOf(t, text)}), "LS308")
		if len(got) != 2 || !strings.Contains(got[0], want[0]) || !strings.Contains(got[1], want[1]) {
			t.Errorf("found %q, want %q", got, want)
		}
	}
}

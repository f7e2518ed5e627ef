package coverage

import (
	"fmt"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// operator makes the volumes of what it is asked for.
type operator struct {
	Name string
	schema.GroupKind
	// Label is what its claims and pods have, with the name of the object as the value; empty if that is not known.
	Label string
}

// operators are those that are known.
var operators = []operator{
	{"CloudNativePG", schema.GroupKind{Group: "postgresql.cnpg.io", Kind: "Cluster"}, "cnpg.io/cluster"},
	{"Zalando's Postgres operator", schema.GroupKind{Group: "acid.zalan.do", Kind: "postgresql"}, "cluster-name"},
	{"Crunchy's Postgres operator", schema.GroupKind{Group: "postgres-operator.crunchydata.com", Kind: "PostgresCluster"}, "postgres-operator.crunchydata.com/cluster"},
	{"StackGres", schema.GroupKind{Group: "stackgres.io", Kind: "SGCluster"}, "stackgres.io/cluster-name"},
	{"Percona's operator", schema.GroupKind{Group: "pgv2.percona.com", Kind: "PerconaPGCluster"}, "postgres-operator.crunchydata.com/cluster"},
	{"Percona's operator", schema.GroupKind{Group: "pxc.percona.com", Kind: "PerconaXtraDBCluster"}, "app.kubernetes.io/instance"},
	{"Percona's operator", schema.GroupKind{Group: "psmdb.percona.com", Kind: "PerconaServerMongoDB"}, "app.kubernetes.io/instance"},
	{"mariadb-operator", schema.GroupKind{Group: "k8s.mariadb.com", Kind: "MariaDB"}, "app.kubernetes.io/instance"},
	{"MySQL's operator", schema.GroupKind{Group: "mysql.oracle.com", Kind: "InnoDBCluster"}, "mysql.oracle.com/cluster"},
	{"MongoDB's operator", schema.GroupKind{Group: "mongodbcommunity.mongodb.com", Kind: "MongoDBCommunity"}, "app"},
	{"Strimzi", schema.GroupKind{Group: "kafka.strimzi.io", Kind: "Kafka"}, "strimzi.io/cluster"},
	{"Strimzi", schema.GroupKind{Group: "kafka.strimzi.io", Kind: "KafkaNodePool"}, "strimzi.io/pool-name"},
	{"ECK", schema.GroupKind{Group: "elasticsearch.k8s.elastic.co", Kind: "Elasticsearch"}, "elasticsearch.k8s.elastic.co/cluster-name"},
	{"the OpenSearch operator", schema.GroupKind{Group: "opensearch.opster.io", Kind: "OpenSearchCluster"}, "opster.io/opensearch-cluster"},
	{"the Redis operator", schema.GroupKind{Group: "redis.redis.opstreelabs.in", Kind: "Redis"}, "app"},
	{"the Redis operator", schema.GroupKind{Group: "databases.spotahome.com", Kind: "RedisFailover"}, "redisfailovers.databases.spotahome.com/name"},
	{"RabbitMQ's operator", schema.GroupKind{Group: "rabbitmq.com", Kind: "RabbitmqCluster"}, "app.kubernetes.io/name"},
	{"ClickHouse's operator", schema.GroupKind{Group: "clickhouse.altinity.com", Kind: "ClickHouseInstallation"}, "clickhouse.altinity.com/chi"},
	{"k8ssandra", schema.GroupKind{Group: "cassandra.datastax.com", Kind: "CassandraDatacenter"}, "cassandra.datastax.com/datacenter"},
	{"Vitess' operator", schema.GroupKind{Group: "planetscale.com", Kind: "VitessCluster"}, "planetscale.com/cluster"},
	{"MinIO's operator", schema.GroupKind{Group: "minio.min.io", Kind: "Tenant"}, "v1.min.io/tenant"},
	{"ScyllaDB's operator", schema.GroupKind{Group: "scylla.scylladb.com", Kind: "ScyllaCluster"}, "scylla/cluster"},
	{"TiDB's operator", schema.GroupKind{Group: "pingcap.com", Kind: "TidbCluster"}, "app.kubernetes.io/instance"},
	{"Solr's operator", schema.GroupKind{Group: "solr.apache.org", Kind: "SolrCloud"}, "solr-cloud"},
	{"Prometheus' operator", schema.GroupKind{Group: "monitoring.coreos.com", Kind: "Prometheus"}, "operator.prometheus.io/name"},
}

// claimOf leads to the claim that an object must have for its operator to make volumes; those of other kinds always have some.
var claimOf = map[schema.GroupKind][]string{
	{Group: "monitoring.coreos.com", Kind: "Prometheus"}:      {"spec", "storage", "volumeClaimTemplate"},
	{Group: "solr.apache.org", Kind: "SolrCloud"}:             {"spec", "dataStorage", "persistent"},
	{Group: "databases.spotahome.com", Kind: "RedisFailover"}: {"spec", "redis", "storage", "persistentVolumeClaim"},
}

// operatedOf says whether an operator makes volumes of an object.
func operatedOf(o *desired.Object, gk schema.GroupKind) (operated, bool) {
	if path := claimOf[gk]; path != nil {
		if _, asks, _ := unstructured.NestedMap(o.Object, path...); !asks {
			return operated{}, false
		}
	}
	if at := slices.IndexFunc(operators, func(by operator) bool { return by.GroupKind == gk }); at >= 0 {
		return operated{Object: o, by: operators[at]}, true
	}
	if !object.IsCustom(gk.Group) || slices.Contains(knownGroups, gk.Group) || slices.Contains(passing, gk.Group) {
		return operated{}, false
	}
	sure := asksForStorage(o.Object["spec"])
	return operated{o, operator{Name: "its operator", GroupKind: gk}, !sure}, sure || sizesStorage("spec", o.Object["spec"])
}

// passing are the groups of operators whose volumes end with what they are made for, or that only speak of what others ask for.
var passing = []string{"tekton.dev", "triggers.tekton.dev", "actions.github.com", "actions.summerwind.dev", "kyverno.io", "policies.kyverno.io",
	"constraints.gatekeeper.sh", "templates.gatekeeper.sh", "mutations.gatekeeper.sh", "policy.open-cluster-management.io", "volsync.backube",
	"apiextensions.crossplane.io", "template.openshift.io", "kro.run"}

// asksForStorage says that a value has in it what a claim asks for, of a volume that does not end with its pod.
func asksForStorage(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		if requests, _ := v["requests"].(map[string]any); requests["storage"] != nil {
			return true
		}
		for field, inner := range v {
			if field != "ephemeral" && asksForStorage(inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, asksForStorage)
	}
	return false
}

var (
	// storing is the name of a field whose size is that of a volume, scratch that of one whose data does not count.
	storing = regexp.MustCompile(`(?i)storage|persist|volume|pvc`)
	scratch = regexp.MustCompile(`^(ephemeral|scratch|cache.*|.*Cache)$`)
	// quantity is a size as one writes it for a volume.
	quantity = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?[KMGTPE]i?$`)
)

// sizesStorage says that the value of a field has in it a size beside a StorageClass, or one in a field that is named for what it stores:
// most operators that have fields of their own for claims have such ones.
func sizesStorage(field string, value any) bool {
	switch v := value.(type) {
	case map[string]any:
		classed := v["storageClassName"] != nil || v["storageClass"] != nil
		for _, name := range []string{"size", "storage", "capacity", "storageSize"} {
			if size, _ := v[name].(string); size != "" && (classed || storing.MatchString(field) && quantity.MatchString(size)) {
				return true
			}
		}
		for field, inner := range v {
			if !scratch.MatchString(field) && sizesStorage(field, inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(item any) bool { return sizesStorage(field, item) })
	}
	return false
}

// operated is an object of which an operator makes volumes.
type operated struct {
	*desired.Object
	by operator
	// perhaps says that it only looks as if volumes were made.
	perhaps bool
}

// makes says that volumes are made, or that they may be.
func (d operated) makes() string {
	if d.perhaps {
		return d.by.Name + " may make"
	}
	return d.by.Name + " makes"
}

// volumes are those that the operator makes, in words.
func (d operated) volumes() string {
	return fmt.Sprintf("volumes that %s for %s %s", d.makes(), d.GetKind(), d.GetName())
}

// operatedProtection says of the volumes that an operator makes what is known, by the policy that protects them, else by the one that comes
// nearest to it: their labels are the operator's, so that a policy without a selector takes them for certain, and one with a selector of
// the operator's label as far as the operator keeps to it.
func (v *view) operatedProtection(d operated) (answer Answer, why string, by *policy) {
	for _, p := range v.policiesBeside(d.GetNamespace(), d.Owner) {
		switch said, because := v.takes(p, d); {
		case said == Protected:
			return Protected, "", p
		case because != "" && (by == nil || answer == Unprotected):
			answer, why, by = said, because, p
		}
	}
	if by != nil {
		return answer, why, by
	}
	answer, why = Unprotected, "no policy is in the namespace"
	if d.by.Label != "" {
		why = fmt.Sprintf("no policy of the namespace selects claims with the label %s=%s", d.by.Label, d.GetName())
	}
	if d.perhaps {
		answer = Unknown
	}
	if unread := v.unreadBeside(d.GetNamespace(), d.Owner); unread != "" {
		return Unknown, unread, nil
	}
	if gaps := v.unseen(d.GetNamespace(), d.Owner); len(gaps) > 0 {
		answer, why = Unknown, why+", as far as was rendered; not rendered: "+words(gaps)
	}
	return answer, why, nil
}

// takes says whether a policy protects the volumes that an operator makes, and if it does not for certain, why; nothing if it has nothing
// to do with them.
func (v *view) takes(p *policy, d operated) (Answer, string) {
	likely := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: d.GetNamespace(), Name: d.GetName(), Labels: map[string]string{d.by.Label: d.GetName()}}}
	withheld := v.withheld(p, d.Owner)
	switch {
	case p.selector == nil || d.by.Label != "" && !p.selector.Takes(&likely):
		return Unprotected, ""
	case suspended(p.Spec):
		return Unprotected, "the policy " + p.GetName() + ", which selects them, is suspended"
	case withheld != "":
		return Unknown, "the policy " + p.GetName() + " selects them, and " + withheld
	case p.Spec.Volumes.Selector == nil:
		return Protected, ""
	case d.by.Label == "":
		return Unknown, fmt.Sprintf("it is not known whether the policy %s selects them, as Git does not show their labels", p.GetName())
	}
	return Unknown, fmt.Sprintf("the policy %s selects claims with the label %s=%s, as %s makes them; Git does not show them", p.GetName(), d.by.Label, d.GetName(), d.by.Name)
}

// holdsStill says that a hook of the policy chooses the operator's pods. Of what is not known to be a database nothing is asked.
func (d operated) holdsStill(p *policy) bool {
	if d.by.Label == "" {
		return true
	}
	for _, hook := range p.Spec.Quiesce {
		selector, err := metav1.LabelSelectorAsSelector(&hook.Selector)
		if err == nil && selector.Matches(labels.Set{d.by.Label: d.GetName()}) {
			return true
		}
		if _, named := hook.Selector.MatchLabels[d.by.Label]; named {
			return hook.Selector.MatchLabels[d.by.Label] == d.GetName()
		}
	}
	return false
}

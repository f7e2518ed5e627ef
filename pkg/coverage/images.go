package coverage

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// database is a program that keeps data in files.
type database struct {
	Name string
	// Images are the last parts of repositories; "a/b" wants the last two.
	Images []string
	// Dirs are where it keeps its data.
	Dirs []string
	// Major is how many numbers of a version must be equal for one to read the files of the other.
	Major int
	// Cache says that it is often run without anything to lose.
	Cache bool
}

// databases are those that are known, by the images that people run them with.
var databases = []database{
	{Name: "PostgreSQL", Images: []string{"postgres", "postgresql", "postgresql-repmgr", "postgis", "timescaledb", "timescaledb-ha", "pgvector", "spilo", "cloudnative-pg/postgresql"},
		Dirs: []string{"/var/lib/postgresql", "/bitnami/postgresql", "/home/postgres/pgdata"}, Major: 1},
	{Name: "MySQL", Images: []string{"mysql", "mysql-server", "percona-server", "percona"}, Dirs: []string{"/var/lib/mysql", "/bitnami/mysql"}, Major: 2},
	{Name: "MariaDB", Images: []string{"mariadb", "mariadb-galera"}, Dirs: []string{"/var/lib/mysql", "/bitnami/mariadb", "/config"}, Major: 2},
	{Name: "MongoDB", Images: []string{"mongo", "mongodb", "mongodb-community-server", "percona-server-mongodb"}, Dirs: []string{"/data/db", "/bitnami/mongodb"}, Major: 1},
	{Name: "Redis", Images: []string{"redis", "redis-stack", "redis-stack-server"}, Dirs: []string{"/data", "/bitnami/redis"}, Major: 1, Cache: true},
	{Name: "Valkey", Images: []string{"valkey"}, Dirs: []string{"/data", "/bitnami/valkey"}, Major: 1, Cache: true},
	{Name: "Elasticsearch", Images: []string{"elasticsearch"}, Dirs: []string{"/usr/share/elasticsearch/data", "/bitnami/elasticsearch"}, Major: 1},
	{Name: "OpenSearch", Images: []string{"opensearch"}, Dirs: []string{"/usr/share/opensearch/data"}, Major: 1},
	{Name: "ClickHouse", Images: []string{"clickhouse", "clickhouse-server"}, Dirs: []string{"/var/lib/clickhouse", "/bitnami/clickhouse"}, Major: 1},
	{Name: "Cassandra", Images: []string{"cassandra"}, Dirs: []string{"/var/lib/cassandra", "/bitnami/cassandra"}, Major: 1},
	{Name: "CockroachDB", Images: []string{"cockroach"}, Dirs: []string{"/cockroach/cockroach-data"}, Major: 2},
	{Name: "InfluxDB", Images: []string{"influxdb"}, Dirs: []string{"/var/lib/influxdb", "/var/lib/influxdb2", "/bitnami/influxdb"}, Major: 1},
	{Name: "Neo4j", Images: []string{"neo4j"}, Dirs: []string{"/data", "/bitnami/neo4j"}, Major: 1},
	{Name: "CouchDB", Images: []string{"couchdb"}, Dirs: []string{"/opt/couchdb/data"}, Major: 1},
	{Name: "etcd", Images: []string{"etcd"}, Dirs: []string{"/var/lib/etcd", "/etcd-data", "/bitnami/etcd"}, Major: 1},
	{Name: "Kafka", Images: []string{"kafka", "cp-kafka"}, Dirs: []string{"/var/lib/kafka", "/bitnami/kafka", "/tmp/kraft-combined-logs"}, Major: 1},
	{Name: "RabbitMQ", Images: []string{"rabbitmq"}, Dirs: []string{"/var/lib/rabbitmq", "/bitnami/rabbitmq"}, Major: 1},
	{Name: "SQL Server", Images: []string{"mssql/server"}, Dirs: []string{"/var/opt/mssql"}, Major: 1},
}

// image is the name of one.
type image struct {
	repository, tag, digest string
}

func parseImage(s string) image {
	var i image
	i.repository, i.digest, _ = strings.Cut(s, "@")
	// A colon before the last slash is that of a registry's port.
	if at := strings.LastIndex(i.repository, ":"); at > strings.LastIndex(i.repository, "/") {
		i.repository, i.tag = i.repository[:at], i.repository[at+1:]
	}
	return i
}

// databaseOf is the database that an image runs; nil if it is not known to be one.
func databaseOf(name string) *database {
	repository := "/" + strings.ToLower(parseImage(name).repository)
	for i := range databases {
		if slices.ContainsFunc(databases[i].Images, func(known string) bool { return strings.HasSuffix(repository, "/"+known) }) {
			return &databases[i]
		}
	}
	return nil
}

var postgresTag = regexp.MustCompile(`(?:^|-)pg([0-9]+)`)

// major is what two versions must have in common; empty if the tag does not tell.
func (d *database) major(tag string) string {
	tag = strings.TrimPrefix(tag, "v")
	// Images with extensions have their own version first: "2.14-pg16".
	if m := postgresTag.FindStringSubmatch(tag); d.Name == "PostgreSQL" && m != nil {
		return m[1]
	}
	var numbers []string
	for part := range strings.SplitSeq(tag, ".") {
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(part)
		}
		if end == 0 {
			break
		}
		numbers = append(numbers, part[:end])
		if end < len(part) {
			break
		}
	}
	want := d.Major
	if len(numbers) == 0 {
		return ""
	}
	if first, _ := strconv.Atoi(numbers[0]); d.Name == "PostgreSQL" && first < 10 || d.Name == "MongoDB" && first < 5 {
		want = 2
	}
	if len(numbers) < want {
		return ""
	}
	return strings.Join(numbers[:want], ".")
}

// server says that a container runs the database itself, as far as its command tells, and not one of its clients.
func server(c corev1.Container) bool {
	for _, word := range slices.Concat(c.Command, c.Args) {
		base := word[strings.LastIndex(word, "/")+1:]
		for _, client := range []string{"pg_dump", "pg_dumpall", "psql", "pg_restore", "pg_isready", "mysqldump", "mariadb-dump", "mysqladmin", "mongodump", "mongosh", "mongo", "redis-cli", "valkey-cli", "sleep", "cqlsh"} {
			if base == client {
				return false
			}
		}
		if strings.Contains(word, "pg_dump") || strings.Contains(word, "mysqldump") || strings.Contains(word, "mongodump") || strings.Contains(word, "mariadb-dump") {
			return false
		}
	}
	return true
}

// serving is a container that runs a database.
type serving struct {
	*workload
	container corev1.Container
	database  *database
}

// servings are the databases of head that run for long.
func (v *view) servings() []serving {
	var out []serving
	for _, namespace := range slices.Sorted(maps.Keys(v.workloads)) {
		for _, w := range v.workloads[namespace] {
			if w.job() {
				continue
			}
			for _, c := range w.pod.Containers {
				if d := databaseOf(c.Image); d != nil && server(c) {
					out = append(out, serving{w, c, d})
				}
			}
		}
	}
	return out
}

// within says that a path is a directory, or below it.
func within(path, dir string) bool {
	path, dir = strings.TrimSuffix(path, "/"), strings.TrimSuffix(dir, "/")
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// dataMount is the volume that holds the database's data, as far as its image tells. Mounted says that some volume does.
func (d serving) dataMount() (volume corev1.Volume, mounted bool) {
	for _, m := range d.container.VolumeMounts {
		for _, dir := range d.database.Dirs {
			if !within(m.MountPath, dir) && !within(dir, m.MountPath) {
				continue
			}
			for _, v := range d.pod.Volumes {
				if v.Name == m.Name {
					return v, true
				}
			}
			return corev1.Volume{}, true // of a template
		}
	}
	return corev1.Volume{}, false
}

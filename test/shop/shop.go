// Package shop deploys examples/shop from a Git repository, fills it, and takes a fingerprint of everything a restore
// must bring back: schema, rows, keys. The demo and the end-to-end tests compare fingerprints.
package shop

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/test/lab"
)

// Namespace is where the shop lives, Policy its ProtectionPolicy.
const (
	Namespace = "shop"
	Policy    = "shop"
)

// The tags of the two releases.
const (
	V1 = "v1.0.0"
	V2 = "v2.0.0"
)

// Repository is a work tree whose origin is on the lab's Git server.
type Repository struct {
	URL string
	dir string
}

// NewRepository makes the empty repository name on the lab's Git server, with a work tree in dir.
func NewRepository(ctx context.Context, l *lab.Lab, name, dir string) (*Repository, error) {
	url, err := l.Repository(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &Repository{URL: url, dir: dir}
	if err := r.git(ctx, "init", "-q", "-b", "main"); err != nil {
		return nil, err
	}
	return r, r.git(ctx, "remote", "add", "origin", url)
}

// Publish makes the repository name with release v1.0.0 of the shop committed and tagged.
func Publish(ctx context.Context, l *lab.Lab, name, dir string) (*Repository, error) {
	r, err := NewRepository(ctx, l, name, dir)
	if err != nil {
		return nil, err
	}
	example, err := exampleDir()
	if err != nil {
		return nil, err
	}
	if err := r.copyFiles(example); err != nil {
		return nil, err
	}
	if err := r.useLabImages(); err != nil {
		return nil, err
	}
	return r, r.release(ctx, V1)
}

// ReleaseV2 commits and tags release v2.0.0, which changes the schema.
func (r *Repository) ReleaseV2(ctx context.Context) error {
	example, err := exampleDir()
	if err != nil {
		return err
	}
	if err := r.copyFiles(filepath.Join(example, "v2")); err != nil {
		return err
	}
	return r.release(ctx, V2)
}

// Commit commits what edit changes in the work tree, without a tag, and pushes it.
func (r *Repository) Commit(ctx context.Context, message string, edit func(dir string) error) error {
	if err := edit(r.dir); err != nil {
		return err
	}
	if err := r.commit(ctx, message); err != nil {
		return err
	}
	return r.git(ctx, "push", "-q", "origin", "main", "--tags")
}

// Tag tags the newest commit and pushes the tag.
func (r *Repository) Tag(ctx context.Context, tag string) error {
	if err := r.git(ctx, "tag", "-a", tag, "-m", tag); err != nil {
		return err
	}
	return r.git(ctx, "push", "-q", "origin", "main", "--tags")
}

func (r *Repository) release(ctx context.Context, tag string) error {
	if err := r.commit(ctx, "Release "+tag); err != nil {
		return err
	}
	return r.Tag(ctx, tag)
}

func (r *Repository) commit(ctx context.Context, message string) error {
	if err := r.git(ctx, "add", "-A"); err != nil {
		return err
	}
	return r.git(ctx, "-c", "user.name=Shop", "-c", "user.email=shop@example.com", "commit", "-q", "-m", message)
}

func (r *Repository) git(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = r.dir
	// The machine's own Git settings must not matter.
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_COMMITTER_NAME=Shop", "GIT_COMMITTER_EMAIL=shop@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (r *Repository) copyFiles(from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || e.Name() == "README.md" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.dir, e.Name()), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// useLabImages points the images at those that the test clusters have; they reach no registry.
func (r *Repository) useLabImages() error {
	f, err := os.OpenFile(filepath.Join(r.dir, "kustomization.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("images:\n")
	for _, image := range []string{"postgres", "redis", "busybox"} {
		if err == nil {
			_, err = fmt.Fprintf(f, "  - {name: %s, newName: lockstep.test/%s}\n", image, image)
		}
	}
	return err
}

func exampleDir() (string, error) {
	root, err := lab.Root()
	return filepath.Join(root, "examples", "shop"), err
}

// CreateSecret makes the namespace and the database password, which Git does not hold.
func CreateSecret(ctx context.Context, c *lab.Cluster) error {
	password := make([]byte, 16)
	if _, err := rand.Read(password); err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if err := client.IgnoreAlreadyExists(c.Create(ctx, namespace)); err != nil {
		return err
	}
	return c.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "database"},
		StringData: map[string]string{"password": hex.EncodeToString(password)},
	})
}

// Sell writes rows and keys; each batch has its own content. Rows are about 200 bytes.
func Sell(ctx context.Context, c *lab.Cluster, batch string, rows int) error {
	insert := fmt.Sprintf(`insert into orders (item, count)
		select '%s-' || n || repeat(md5(n::text || '%s'), 5), n %% 97 from generate_series(1, %d) n; checkpoint`, batch, batch, rows)
	if _, err := SQL(ctx, c, insert); err != nil {
		return err
	}
	_, err := c.Exec(ctx, Namespace, "cache-0", "redis-cli", "eval",
		`for i = 1, 1000 do redis.call('set', ARGV[1] .. ':' .. i, redis.sha1hex(ARGV[1] .. i)) end return 'ok'`, "0", batch)
	return err
}

// SQL runs statements in the database and returns the rows as bare text.
func SQL(ctx context.Context, c *lab.Cluster, statements string) (string, error) {
	return sqlIn(ctx, c, Namespace, statements)
}

func sqlIn(ctx context.Context, c *lab.Cluster, namespace, statements string) (string, error) {
	return c.Exec(ctx, namespace, "database-0", "psql", "-h", "/tmp", "-U", "shop", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qtAc", statements)
}

// Fingerprint is what must be the same after a restore.
type Fingerprint struct {
	// Schema is a digest of every column of every table.
	Schema string
	// Orders counts the rows, OrdersDigest covers their content.
	Orders, OrdersDigest string
	// Keys counts Redis keys, KeysDigest covers names and values.
	Keys, KeysDigest string
	// Password is a digest of the Secret that Git does not hold.
	Password string
	// Page is what the front serves.
	Page string
}

// TakeFingerprint reads everything from inside the pods.
func TakeFingerprint(ctx context.Context, c *lab.Cluster) (Fingerprint, error) {
	return TakeFingerprintIn(ctx, c, Namespace)
}

// TakeFingerprintIn does so of a shop that lives in another namespace.
func TakeFingerprintIn(ctx context.Context, c *lab.Cluster, namespace string) (Fingerprint, error) {
	var f Fingerprint
	for _, pod := range []string{"database-0", "cache-0"} {
		if _, err := c.PodReady(ctx, namespace, pod); err != nil {
			return f, err
		}
	}
	var err error
	query := func(into *string, sql string) {
		if err == nil {
			*into, err = sqlIn(ctx, c, namespace, sql)
			*into = strings.TrimSpace(*into)
		}
	}
	query(&f.Schema, `select md5(string_agg(concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default), E'\n' order by table_name, column_name))
		from information_schema.columns where table_schema = 'public'`)
	query(&f.Orders, `select count(*) from orders`)
	query(&f.OrdersDigest, `select md5(string_agg(o::text, E'\n' order by id)) from orders o`)
	redis := func(into *string, args ...string) {
		if err == nil {
			*into, err = c.Exec(ctx, namespace, "cache-0", append([]string{"redis-cli"}, args...)...)
			*into = strings.TrimSpace(*into)
		}
	}
	redis(&f.Keys, "dbsize")
	redis(&f.KeysDigest, "eval", `local keys = redis.call('keys', '*') table.sort(keys) local all = ''
		for _, k in ipairs(keys) do all = redis.sha1hex(all .. k .. redis.call('get', k)) end return all`, "0")
	if err != nil {
		return f, err
	}
	var secret corev1.Secret
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "database"}, &secret); err != nil {
		return f, err
	}
	sum := sha256.Sum256(secret.Data["password"])
	f.Password = hex.EncodeToString(sum[:8])
	if f.Page, err = frontPage(ctx, c, namespace); err != nil {
		return f, err
	}
	return f, login(ctx, c, namespace)
}

// login proves that the password of the Secret opens the database over the network, as a client of the shop would.
func login(ctx context.Context, c *lab.Cluster, namespace string) error {
	out, err := c.Exec(ctx, namespace, "database-0", "sh", "-c", `PGPASSWORD="$PASSWORD" psql -h database -U shop -d postgres -qtAc 'select 1'`)
	if err != nil {
		return fmt.Errorf("logging in with the restored password: %w", err)
	}
	if strings.TrimSpace(out) != "1" {
		return fmt.Errorf("logging in with the restored password: got %q", out)
	}
	return nil
}

func frontPage(ctx context.Context, c *lab.Cluster, namespace string) (string, error) {
	out, err := c.Kubectl(ctx, "get", "--raw", "/api/v1/namespaces/"+namespace+"/services/front:80/proxy/index.html")
	return strings.TrimSpace(out), err
}

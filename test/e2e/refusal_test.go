package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// refused runs the CLI, which must end with the code and name what it is about.
func refused(ctx context.Context, t *testing.T, c *lab.Cluster, code int, says string, args ...string) {
	t.Helper()
	_, err := shared.lab.Lockstep(ctx, c, args...)
	var exit *lab.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("lockstep %s: got %v, want exit code %d", strings.Join(args, " "), err, code)
	}
	if exit.Code != code || !strings.Contains(exit.Output, says) {
		t.Errorf("lockstep %s: exit code %d, want %d and a word about %q:\n%s", strings.Join(args, " "), exit.Code, code, says, exit.Output)
	}
}

// TestUnknownIsNeverEmpty asks for a restore while the vault cannot be asked: no claim may appear.
func TestUnknownIsNeverEmpty(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "unknown"
	repo, digest := newNotes(ctx, t, ns)
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
	lockstep(ctx, t, shared.dr, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)

	var good v1alpha1.Vault
	must(t, shared.dr.Get(ctx, client.ObjectKey{Name: "primary"}, &good))
	otherKey := filepath.Join(t.TempDir(), "other.key")
	lockstep(ctx, t, nil, "vault", "init", "file://"+t.TempDir()+"/v", "--key-file", otherKey)
	identity, err := os.ReadFile(otherKey)
	must(t, err)
	must(t, shared.dr.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "other-key"}, Data: map[string][]byte{"identity": identity},
	}))
	cases := []struct {
		name, reason string
		break_       func(*v1alpha1.VaultSpec)
	}{
		{"no-key", v1alpha1.ReasonKeyMissing, func(s *v1alpha1.VaultSpec) { s.KeySecretRef.Name = "absent" }},
		{"wrong-key", v1alpha1.ReasonWrongKey, func(s *v1alpha1.VaultSpec) { s.KeySecretRef.Name = "other-key" }},
		{"unreachable", v1alpha1.ReasonUnreachable, func(s *v1alpha1.VaultSpec) { s.S3.Endpoint = "http://" + shared.lab.Address + ":9" }},
		{"no-bucket", "", func(s *v1alpha1.VaultSpec) { s.S3.Bucket = "no-such-bucket" }},
		{"empty-prefix", v1alpha1.ReasonNotInitialised, func(s *v1alpha1.VaultSpec) { s.S3.Prefix = "mistyped" }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: *good.Spec.DeepCopy()}
			c.break_(&vault.Spec)
			must(t, shared.dr.Create(ctx, vault))
			awaitNotReady(ctx, t, vault, c.reason)
			restore := &v1alpha1.Restore{
				ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "unknown-" + c.name},
				Spec: v1alpha1.RestoreSpec{
					From:   v1alpha1.RestoreFrom{Vault: c.name, Tag: tag},
					Source: v1alpha1.GitSource{URL: repo.URL, Path: "."},
				},
			}
			must(t, shared.dr.Create(ctx, restore))
			awaitNotReady(ctx, t, restore, "")
			var claims corev1.PersistentVolumeClaimList
			for _, in := range []string{ns, v1alpha1.SystemNamespace} {
				must(t, shared.dr.List(ctx, &claims, client.InNamespace(in)))
				if len(claims.Items) != 0 {
					t.Errorf("claims were made in %s while the vault was unknown", in)
				}
			}
			must(t, shared.dr.Delete(ctx, restore))
			must(t, shared.dr.Delete(ctx, vault))
		})
	}
	// The same restore with the vault in order: the cases above failed for the vault's sake alone.
	lockstep(ctx, t, shared.dr, "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", "primary")
	if got := notesDigest(ctx, t, shared.dr, ns); got != digest {
		t.Errorf("restored %s, want %s", got, digest)
	}
	forget(ctx, t, shared.dr, ns)
	forget(ctx, t, shared.prod, ns)
}

func awaitNotReady(ctx context.Context, t *testing.T, obj conditioned, reason string) {
	t.Helper()
	var last []metav1.Condition
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		if err := shared.dr.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return false, err
		}
		last = obj.GetConditions()
		for _, c := range last {
			if c.Type == v1alpha1.ConditionReady {
				if c.Status == metav1.ConditionTrue {
					return false, errors.New("it is Ready")
				}
				return c.Reason != v1alpha1.ReasonProgressing && (reason == "" || c.Reason == reason), nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("%s: %v; want reason %q, conditions %+v", obj.GetName(), err, reason, last)
	}
}

// TestDamagedFileFailsThePoint damages a file on prod's disk, so that reading it gives an I/O error: the point must fail and name
// the file.
func TestDamagedFileFailsThePoint(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "damaged"
	newNotes(ctx, t, ns)
	pod := notesPods(ctx, t, shared.prod, ns)[0]
	marker := fmt.Sprintf("marker %d ", time.Now().UnixNano())
	_, err := shared.prod.Exec(ctx, ns, pod, "busybox", "sh", "-ec",
		fmt.Sprintf(`cd /data; for i in $(busybox seq 20000); do echo "%s $i"; done >a/ledger; busybox sync`, marker))
	must(t, err)
	damage(t, []byte(marker+" 10000\n"))
	_, err = shared.lab.Lockstep(ctx, shared.prod, "backup", "notes", "-n", ns)
	var exit *lab.ExitError
	if !errors.As(err, &exit) || exit.Code != 1 || !strings.Contains(exit.Output, "a/ledger") {
		t.Fatalf("got %v, want exit code 1 and the name a/ledger", err)
	}
	nothingLeft(ctx, t, shared.prod, ns)
	out, err := shared.lab.Lockstep(ctx, nil, "points", "--vault", shared.vault, "--key-file", shared.key, "--application", ns+"/notes", "-o", "json")
	must(t, err)
	if strings.Contains(out, `"id"`) {
		t.Errorf("the failed point has a record: %s", out)
	}
	forget(ctx, t, shared.prod, ns)
}

// damage overwrites the bytes on the disk under prod's volumes and makes the kernel forget what it has read.
func damage(t *testing.T, content []byte) {
	t.Helper()
	disk, err := os.OpenFile(shared.prod.Pool(), os.O_RDWR, 0)
	must(t, err)
	defer disk.Close()
	at := find(t, disk, content)
	if at < 0 {
		t.Fatalf("the file's bytes are not on %s", disk.Name())
	}
	_, err = disk.WriteAt(bytes.Repeat([]byte{'X'}, len(content)), at)
	must(t, err)
	must(t, disk.Sync())
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}

// find returns where content begins in the data of a sparse file, or -1.
func find(t *testing.T, f *os.File, content []byte) int64 {
	t.Helper()
	const step = 16 << 20
	buffer := make([]byte, step+len(content))
	for at := int64(0); ; at += step {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return -1
		}
		must(t, err)
		at = start
		n, err := f.ReadAt(buffer, at)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if i := bytes.Index(buffer[:n], content); i >= 0 {
			return at + int64(i)
		}
	}
}

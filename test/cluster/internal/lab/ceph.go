//go:build linux

package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/namespace"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

const (
	monPort = 3300
	// storeBytes is the most the S3 server holds. It is memory, taken as it is
	// filled.
	storeBytes = 8 << 30

	cephDir  = namespace.Dir + "/ceph"
	cephConf = cephDir + "/ceph.conf"
)

//go:embed ceph.conf
var cephConfig string

// prepareCeph makes the monitor's database and returns the processes of the
// S3 server. The other two set themselves up as they start: their part of it
// needs the ones before them.
func prepareCeph(ctx context.Context, l Lab) ([]supervise.Process, error) {
	id := uuid()
	conf, err := renderCeph(id, l.Address)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"mon", "osd", "rgw", "run"} {
		if err := os.MkdirAll(filepath.Join(cephDir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(cephConf, conf, 0o644); err != nil {
		return nil, err
	}
	mon := net.JoinHostPort(l.Address, strconv.Itoa(monPort))
	keyring, monmap := cephDir+"/keyring", cephDir+"/monmap"
	for _, args := range [][]string{
		{"ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"},
		{"ceph-authtool", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *"},
		{"ceph-authtool", keyring, "--gen-key", "-n", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"},
		{"ceph-authtool", keyring, "--gen-key", "-n", "client.rgw", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"},
		{"monmaptool", "--create", "--fsid", id, "--addv", "a", "[v2:" + mon + "]", monmap},
		{"ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring},
	} {
		if err := ceph(ctx, args...); err != nil {
			return nil, err
		}
	}
	env := []string{"CEPH_CONF=" + cephConf}
	self := func(name string) supervise.Process {
		return supervise.Process{Name: name, Env: env, Wait: supervise.TCP(mon),
			Argv: []string{"/proc/self/exe", "internal", name, namespace.Dir}}
	}
	return []supervise.Process{
		{Name: "ceph-mon", Env: env, Argv: []string{"/usr/bin/ceph-mon", "-f", "-i", "a"}},
		self("ceph-osd"), self("radosgw"),
	}, nil
}

func renderCeph(fsid, address string) ([]byte, error) {
	t, err := template.New("ceph.conf").Parse(cephConfig)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{"FSID": fsid, "Address": address, "MonPort": monPort, "S3Port": s3Port,
		"Bytes": int64(storeBytes), "Dir": namespace.Dir})
	return b.Bytes(), err
}

// RunOSD becomes the process that keeps the objects, after registering it with
// the monitor the first time.
func RunOSD(ctx context.Context) error {
	const idFile = cephDir + "/osd-id"
	if _, err := os.Stat(idFile); errors.Is(err, fs.ErrNotExist) {
		id := uuid()
		if err := ceph(ctx, "ceph", "osd", "new", id, "0"); err != nil {
			return err
		}
		if err := ceph(ctx, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", id); err != nil {
			return err
		}
		if err := os.WriteFile(idFile, []byte(id), 0o644); err != nil {
			return err
		}
	}
	return unix.Exec("/usr/bin/ceph-osd", []string{"ceph-osd", "-f", "-i", "0"}, os.Environ())
}

// RunGateway becomes the process that speaks S3, after making the lab's user
// the first time.
func RunGateway(ctx context.Context, dir string) error {
	var l Lab
	if err := home.ReadJSON(filepath.Join(dir, stateFile), &l); err != nil {
		return err
	}
	const done = cephDir + "/user-made"
	if _, err := os.Stat(done); errors.Is(err, fs.ErrNotExist) {
		// Blocks until the store takes requests.
		if err := ceph(ctx, "radosgw-admin", "--no-mon-config", "user", "create", "--uid=lab", "--display-name=lab",
			"--access-key="+l.S3.AccessKey, "--secret-key="+l.S3.SecretKey); err != nil {
			return err
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			return err
		}
	}
	return unix.Exec("/usr/bin/radosgw", []string{"radosgw", "--no-mon-config", "-f", "-n", "client.rgw"}, os.Environ())
}

// ceph runs a program of Ceph's. Its arguments may be secret, and so do not
// show in the error.
func ceph(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CEPH_CONF="+cephConf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// uuid returns a random UUID (version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // does not fail, see its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

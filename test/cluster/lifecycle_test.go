//go:build linux

package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// TestClusterLifecycle uses the program as people and other tests do: two
// clusters side by side, everything a cluster promises, an end without
// farewell, and nothing left afterwards.
func TestClusterLifecycle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("clusters take root: namespaces, mounts and links")
	}
	if testing.Short() {
		t.Skip("clusters take a minute")
	}
	p := newProgram(t)
	p.run(t, "build")
	t.Cleanup(func() { p.run(t, "down", "--all") })

	up := clusters(t, p.run(t, "up", "a", "b", "-o", "json"))
	if len(up) != 2 || up[0].Name != "a" || up[1].Name != "b" || up[0].Address == up[1].Address || up[0].PodCIDR == up[1].PodCIDR {
		t.Fatalf("clusters: %+v", up)
	}
	a, b := up[0], up[1]
	info := p.run(t, "lab", "info", "--wait", "-o", "json")
	var lab labInfo
	decode(t, info, &lab)
	made := p.traces(t, up)
	if len(made.Links) == 0 || len(made.Loops) != 2 || len(made.Processes) < 20 || len(made.Cgroups) == 0 {
		t.Fatalf("what is there to be removed was not found: %+v", made)
	}

	t.Run("up again changes nothing", func(t *testing.T) {
		if diff := cmp.Diff([]clusterInfo{a}, clusters(t, p.run(t, "up", "a", "-o", "json"))); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
	t.Run("volumes, names and networks", func(t *testing.T) { testWorkloads(t, p, a, lab) })
	t.Run("snapshot and clone", func(t *testing.T) { testSnapshot(t, p) })
	t.Run("images", func(t *testing.T) { testImages(t, p) })
	t.Run("bucket and repository", func(t *testing.T) {
		p.run(t, "lab", "bucket", "backups", "--object-lock")
		if url := p.run(t, "lab", "repo", "shop"); strings.TrimSpace(string(url)) != lab.Git.URL+"/shop.git" {
			t.Errorf("url %q", url)
		}
	})
	t.Run("the lab stays while clusters need it", func(t *testing.T) {
		if out, err := p.try(t, "lab", "down"); err == nil || !strings.Contains(out, "a, b") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a dead cluster is found and replaced", func(t *testing.T) {
		if err := syscall.Kill(b.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		poll(t, "b's end", func() error {
			if s := clusters(t, p.run(t, "status", "-o", "json")); s[1].Status != "dead" {
				return fmt.Errorf("status %q", s[1].Status)
			}
			return nil
		})
		again := clusters(t, p.run(t, "up", "b", "-o", "json"))
		if again[0].PID == b.PID || again[0].Status != "ready" {
			t.Errorf("%+v", again[0])
		}
		up[1] = again[0]
	})
	t.Run("kill", func(t *testing.T) {
		p.run(t, "kill", "b")
		if out, err := p.try(t, "kill", "b"); err == nil {
			t.Errorf("killed twice: %s", out)
		}
		p.run(t, "kubectl", "a", "get", "nodes")
	})

	made = p.traces(t, up[:1])
	p.run(t, "down", "--all")
	poll(t, "everything to be gone", func() error { return p.remains(t, made) })
	if left, err := filepath.Glob(filepath.Join(p.home, "run", "*", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("files left: %q, %v", left, err)
	}
	p.run(t, "down", "--all")
}

// testWorkloads brings up what applications are made of and asks one pod for
// all of it.
func testWorkloads(t *testing.T, p program, a clusterInfo, lab labInfo) {
	p.apply(t, "a", "testdata/workloads.yaml")
	p.run(t, "kubectl", "a", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
	address := strings.TrimPrefix(lab.Git.URL, "http://")
	host, port, _ := strings.Cut(address, ":")
	for what, script := range map[string]string{
		"a Service by its name":            "wget -qO- http://web/index.html | grep hello",
		"a Service by its full name":       "wget -qO- http://web.default.svc.cluster.local/index.html | grep hello",
		"a pod of a StatefulSet":           "wget -qO- http://files-0.files.default.svc.cluster.local:8080/mark | grep 'files-0'",
		"the lab":                          "nc -w 5 " + host + " " + port + " </dev/null",
		"the API server":                   "nc -w 5 kubernetes.default 443 </dev/null",
		"no name outside":                  "! nslookup example.org",
		"a volume bound at once":           "echo x >/snap/x && cat /snap/x",
		"a volume bound to its consumer":   "echo x >/wait/x && cat /wait/x",
		"a volume that is a directory":     "echo x >/local/x && cat /local/x",
		"a volume that is a device":        "test -b /dev/raw-volume && echo x >/dev/raw-volume",
		"the group that a pod's files get": "test $(stat -c %g /snap) = 1234",
	} {
		if out, err := p.try(t, "kubectl", "a", "exec", "client", "--", "sh", "-c", script); err != nil {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
	if out := p.run(t, "kubectl", "a", "logs", "client"); !bytes.Contains(out, []byte("client started")) {
		t.Errorf("logs: %q", out)
	}
	if out := p.run(t, "kubectl", "a", "get", "node", a.Node, "-o", "jsonpath={.status.addresses[0].address}"); string(out) != a.Address {
		t.Errorf("the node's address is %q, want %q", out, a.Address)
	}
}

func testSnapshot(t *testing.T, p program) {
	p.run(t, "kubectl", "a", "exec", "files-0", "--", "sh", "-c", "echo before >/data/state; sync")
	p.apply(t, "a", "testdata/snapshot.yaml")
	p.run(t, "kubectl", "a", "wait", "--for=jsonpath={.status.readyToUse}=true", "volumesnapshot/files", "--timeout=60s")
	p.run(t, "kubectl", "a", "exec", "files-0", "--", "sh", "-c", "echo after >/data/state")
	p.apply(t, "a", "testdata/clone.yaml")
	p.run(t, "kubectl", "a", "wait", "--for=condition=Ready", "pod/clone", "--timeout=60s")
	if out := p.run(t, "kubectl", "a", "exec", "clone", "--", "cat", "/data/state"); string(out) != "before\n" {
		t.Errorf("the clone has %q", out)
	}
}

func testImages(t *testing.T, p program) {
	for _, version := range []string{"one", "two"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "version")
		if err := os.WriteFile(file, []byte(version), 0o644); err != nil {
			t.Fatal(err)
		}
		tar := filepath.Join(dir, "x.tar")
		p.run(t, "image", "pack", "-o", tar, "-t", "lockstep.test/packed:1", "-e", "/bin/busybox,cat,/version",
			"/version="+file, "/bin/busybox="+p.busybox(t))
		p.run(t, "image", "load", "a", tar)
		p.run(t, "kubectl", "a", "run", version, "--image=lockstep.test/packed:1", "--image-pull-policy=Never", "--restart=Never")
		p.run(t, "kubectl", "a", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+version, "--timeout=60s")
		if out := p.run(t, "kubectl", "a", "logs", version); string(out) != version {
			t.Errorf("the image says %q, want %q", out, version)
		}
	}
}

type clusterInfo struct {
	Name, Kubeconfig, Node, Address, PodCIDR, Status string
	PID                                              int
}

type labInfo struct {
	Address string
	Git     struct{ URL, Dir string }
}

func clusters(t *testing.T, out []byte) (all []clusterInfo) {
	t.Helper()
	decode(t, out, &all)
	return all
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}

// program is the program under test, with a home of its own that shares the
// user's build cache.
type program struct{ path, home string }

func newProgram(t *testing.T) program {
	t.Helper()
	user, err := home.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	p := program{path: filepath.Join(t.TempDir(), "cluster"), home: t.TempDir()}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", p.path, "./cmd/cluster").CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	if err := errors.Join(os.MkdirAll(user.Build(), 0o755), os.Symlink(user.Build(), filepath.Join(p.home, "build"))); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p program) run(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := p.command(context.WithoutCancel(t.Context()), args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cluster %s: %v: %s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out
}

func (p program) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := p.command(t.Context(), args...).CombinedOutput()
	return string(out), err
}

func (p program) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env = append(os.Environ(), "LOCKSTEP_HOME="+p.home)
	return cmd
}

func (p program) apply(t *testing.T, cluster, file string) {
	t.Helper()
	p.run(t, "kubectl", cluster, "apply", "-f", file)
}

// busybox finds the static busybox in the busybox image's own pod.
func (p program) busybox(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "busybox")
	b := p.run(t, "kubectl", "a", "exec", "client", "--", "cat", "/bin/busybox")
	if err := os.WriteFile(out, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return out
}

// traces is what clusters and their lab leave on the machine while they run.
type traces struct {
	Bridge    string
	Namespace []string          // PID namespaces
	Processes []string          // in these
	Links     []string          // of the bridge
	Cgroups   []string          // named for the bridge
	Loops     map[string]string // loop device: id of the file behind it
	Mounts    []string          // on the machine, below the home
	Rules     string            // of iptables, on the machine
}

func (p program) traces(t *testing.T, up []clusterInfo) traces {
	t.Helper()
	var lab struct {
		Bridge string
		PID    int
	}
	if err := home.ReadJSON(filepath.Join(p.home, "run", "lab", "state.json"), &lab); err != nil {
		t.Fatal(err)
	}
	made := traces{Bridge: lab.Bridge, Loops: map[string]string{}}
	for _, pid := range append([]int{lab.PID}, pids(up)...) {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if err != nil {
			t.Fatal(err)
		}
		made.Namespace = append(made.Namespace, ns)
	}
	for _, c := range up {
		var st syscall.Stat_t
		img := filepath.Join(p.home, "run", "clusters", c.Name, "pool.img")
		if err := syscall.Stat(img, &st); err != nil {
			t.Fatal(err)
		}
		for device, id := range loops(t) {
			if id == fmt.Sprint(st.Ino) {
				made.Loops[device] = id
			}
		}
	}
	return made.look(t, p.home)
}

// look finds what is there now of what was noted.
func (m traces) look(t *testing.T, homeDir string) traces {
	t.Helper()
	now := traces{Bridge: m.Bridge, Namespace: m.Namespace, Loops: map[string]string{}}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range procs {
		if ns, err := os.Readlink(dir + "/ns/pid"); err == nil && slices.Contains(m.Namespace, ns) {
			now.Processes = append(now.Processes, dir)
		}
	}
	links, err := filepath.Glob("/sys/class/net/" + m.Bridge + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name := filepath.Base(l); name == m.Bridge || strings.HasPrefix(name, m.Bridge+"n") {
			now.Links = append(now.Links, name)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), m.Bridge+"-") {
			now.Cgroups = append(now.Cgroups, path)
		}
		return nil // others come and go while we look
	})
	if err != nil {
		t.Fatal(err)
	}
	current := loops(t)
	for device, id := range m.Loops {
		if current[device] == id {
			now.Loops[device] = id
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, homeDir) || strings.Contains(line, "/run/lockstep") {
			now.Mounts = append(now.Mounts, line)
		}
	}
	rules, err := exec.CommandContext(t.Context(), "iptables-save").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rules)) {
		if strings.Contains(line, m.Bridge) || strings.Contains(line, "10.77.") || strings.Contains(line, "KUBE") {
			now.Rules += line
		}
	}
	return now
}

// remains says what is still there of what was noted.
func (p program) remains(t *testing.T, made traces) error {
	t.Helper()
	now := made.look(t, p.home)
	want := traces{Bridge: made.Bridge, Namespace: made.Namespace, Loops: map[string]string{}}
	if diff := cmp.Diff(want, now); diff != "" {
		return fmt.Errorf("left behind (+):\n%s", diff)
	}
	return nil
}

// loops returns the loop devices in use with the inodes of their files.
func loops(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "losetup", "--list", "--noheadings", "--output", "NAME,BACK-INO").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 {
			found[f[0]] = f[1]
		}
	}
	return found
}

func pids(up []clusterInfo) (all []int) {
	for _, c := range up {
		all = append(all, c.PID)
	}
	return all
}

func poll(t *testing.T, what string, ready func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := supervise.Poll(ctx, 100*time.Millisecond, func(context.Context) error { return ready() }); err != nil {
		t.Errorf("waiting for %s: %v", what, err)
	}
}

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// controlPlane are the programs of a cluster that are not its node's.
var controlPlane = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "snapshot-controller", "csi-snapshotter",
}

// KillAPIServer ends the API server with SIGKILL. It is started again after a second.
func (c *Cluster) KillAPIServer() error {
	return c.kill(func(program string) bool { return program == "kube-apiserver" })
}

// KillNode ends with SIGKILL all that runs on the node: the kubelet, containerd, the CSI driver and the processes of every
// pod, as a reboot does. What belongs to the node is started again after a second; what was written stays.
func (c *Cluster) KillNode() error {
	return c.kill(func(program string) bool { return !slices.Contains(controlPlane, program) })
}

// SettleStorage returns when the room of deleted volumes has been given back: btrfs does so in its own time, half a minute later at times.
func (c *Cluster) SettleStorage(ctx context.Context) error {
	pool := fmt.Sprintf("/proc/%d/root/run/lockstep/pool", c.PID) // as test/cluster mounts it
	// The first writes the deletions down, which wakes what carries them out; the second waits for it.
	for _, action := range []string{"filesystem", "subvolume"} {
		if out, err := exec.CommandContext(ctx, "btrfs", action, "sync", pool).CombinedOutput(); err != nil {
			return fmt.Errorf("btrfs %s sync: %w: %s", action, err, trim(out))
		}
	}
	return nil
}

// kill ends those processes of the cluster whose program matches, and those that they start while they are being killed. It is done
// before the first of them is started again.
func (c *Cluster) kill(match func(program string) bool) error {
	killed := 0
	for began := time.Now(); time.Since(began) < restartAfter/2; {
		n, err := c.killOnce(match)
		if err != nil {
			return err
		}
		if killed += n; n == 0 {
			break
		}
	}
	if killed == 0 {
		return fmt.Errorf("%s has no such process", c.Name)
	}
	return nil
}

// restartAfter is how long what has ended in a cluster stays down.
const restartAfter = time.Second

func (c *Cluster) killOnce(match func(program string) bool) (killed int, err error) {
	parents, err := parents()
	if err != nil {
		return 0, err
	}
	for pid := range parents {
		if pid == c.PID || !under(parents, pid, c.PID) {
			continue
		}
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		program, _, _ := bytes.Cut(argv, []byte{0})
		if err != nil || len(program) == 0 || !match(filepath.Base(string(program))) {
			continue // one that has ended meanwhile has no program
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return killed, fmt.Errorf("killing process %d of %s: %w", pid, c.Name, err)
		}
		killed++
	}
	return killed, nil
}

// parents maps every process of the machine to its parent.
func parents() (map[int]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	all := map[int]int{}
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state parent …", and the name may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || len(fields) < 2 {
			continue
		}
		if all[pid], err = strconv.Atoi(fields[1]); err != nil {
			return nil, fmt.Errorf("reading the parent of process %d: %w", pid, err)
		}
	}
	return all, nil
}

func under(parents map[int]int, pid, ancestor int) bool {
	for pid > 1 {
		if pid = parents[pid]; pid == ancestor {
			return true
		}
	}
	return false
}

//go:build linux

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// blockLoops returns the loop devices that block volumes of the running cluster have: the kubelet's, which stay when it ends, on top
// of the driver's, which go with the last that holds them. They are to be found only while the cluster's own mounts are there.
func (c Cluster) blockLoops() ([]string, error) {
	disks, err := filepath.Glob(fmt.Sprintf("/proc/%d/root%s/pool/volumes/*/disk", c.Init.PID, inside))
	if err != nil {
		return nil, err
	}
	type file struct{ device, inode uint64 }
	files := map[file]bool{}
	for _, d := range disks {
		var st unix.Stat_t
		if err := unix.Stat(d, &st); err == nil { // else it is being deleted
			files[file{st.Dev, st.Ino}] = true
		}
	}
	all, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return nil, err
	}
	info := map[string]*unix.LoopInfo64{}
	drivers := map[uint64]bool{} // by the number of the device
	for _, name := range all {
		status, err := loopStatus(name)
		if err != nil {
			return nil, err
		}
		if status == nil {
			continue
		}
		info[name] = status
		if files[file{status.Device, status.Inode}] {
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err != nil {
				return nil, err
			}
			drivers[st.Rdev] = true
		}
	}
	var found []string
	for name, status := range info {
		if drivers[status.Rdevice] {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found, nil
}

// loopStatus says what is behind a loop device; nil if nothing is.
func loopStatus(name string) (*unix.LoopInfo64, error) {
	device, err := os.Open(name)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = device.Close() }()
	status, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	return status, err
}

// detach frees loop devices, as soon as nobody has them open.
func detach(loops []string) error {
	var failed error
	for _, name := range loops {
		device, err := os.Open(name)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
			failed = errors.Join(failed, fmt.Errorf("detaching %q: %w", name, err))
		}
		failed = errors.Join(failed, device.Close())
	}
	return failed
}

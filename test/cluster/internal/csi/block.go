//go:build linux

package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is the file of a block volume's subvolume that holds the bytes of the device.
const disk = "disk"

// size gives the device of a block volume its size. What it began as stays.
func (p *pool) size(kind, id string, capacity int64) error {
	f, err := os.OpenFile(filepath.Join(p.path(kind, id), disk), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(capacity), f.Close())
}

// loop is the loop device of a published block volume.
type loop struct {
	// device is held open: the kernel detaches it when the last one lets go.
	device  *os.File
	targets map[string]bool
}

// publishBlock binds the volume's device to target, a file.
func (d *Driver) publishBlock(ctx context.Context, id, target string) error {
	if d.loops[id] == nil {
		device, err := attach(ctx, filepath.Join(d.pool.path(volumes, id), disk))
		if err != nil {
			return err
		}
		d.loops[id] = &loop{device: device, targets: map[string]bool{}}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), bind(d.loops[id].device.Name(), target, false)); err != nil {
		return err
	}
	d.loops[id].targets[target] = true
	return nil
}

// unpublishBlock lets go of the device when nobody else has it. Anything that is not a block volume is none of its business.
func (d *Driver) unpublishBlock(id, target string) error {
	l := d.loops[id]
	if l == nil {
		return nil
	}
	delete(l.targets, target)
	if len(l.targets) > 0 {
		return nil
	}
	delete(d.loops, id)
	return errors.Join(unix.Fsync(int(l.device.Fd())), l.device.Close())
}

// attach makes a loop device of a file. Another may take the free one first.
func attach(ctx context.Context, name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for ctx.Err() == nil {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("asking for a loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is about to appear
		}
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:], strings.ToValidUTF8(filepath.Base(filepath.Dir(name)), ""))
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return device, nil
		}
		if err := errors.Join(err, device.Close()); !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attaching %q: %w", name, err)
		}
	}
	return nil, ctx.Err()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// volume is an ext4 file system of its own, in a file. What is loaded goes to one that is fresh, as on a fresh cluster; in a file system
// that all loads share, ext4 looks at each inode that was deleted in the last minutes before it takes another, and who comes later
// pays for it.
type volume struct{ dir string }

// volumeImage is the file. It is kept with the data, and written once, so that the disk knows where all of it lies.
const volumeImage = "volume.img"

// inodeSize is what an inode takes; that of mkfs.ext4, and a fifth more.
const inodeSize = 307

// mountVolume makes and mounts a file system with room for so many files of so many bytes.
func mountVolume(ctx context.Context, data, dir string, files, bytes int64) (v *volume, err error) {
	image := filepath.Join(data, volumeImage)
	if err := fill(ctx, image, bytes+bytes/5+files*inodeSize+gib); err != nil {
		return nil, err
	}
	v = &volume{filepath.Join(dir, "volume")}
	if err := os.Mkdir(v.dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := output(ctx, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-N", fmt.Sprint(files+files/5+10_000), image); err != nil {
		return nil, err
	}
	// Without the page cache of the file below, whose memory and time would come on top.
	device, err := output(ctx, "losetup", "--find", "--show", "--direct-io=on", image)
	if err != nil {
		return nil, err
	}
	_, err = output(ctx, "mount", device, v.dir)
	_, detachErr := output(context.WithoutCancel(ctx), "losetup", "--detach", device) // a mounted one goes when it is unmounted
	if err = errors.Join(err, detachErr); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *volume) close() error {
	_, err := output(context.Background(), "umount", v.dir) // also when the benchmark is interrupted
	return errors.Join(err, os.Remove(v.dir))
}

// fill makes a file at least so long, all of it written.
func fill(ctx context.Context, name string, size int64) error {
	if info, err := os.Stat(name); err == nil && info.Size() >= size || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	zeros := make([]byte, 4*mib)
	for at := int64(0); err == nil && info.Size()+at < size; at += int64(len(zeros)) {
		if _, err = f.Write(zeros); err == nil {
			err = ctx.Err()
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

//go:build linux

package csi

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeGetInfo implements the node service.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node, AccessibleTopology: d.topology()}, nil
}

// NodeGetCapabilities implements the node service.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodePublishVolume implements the node service.
func (d *Driver) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "volume id, target and capability are required")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.pool.get(volumes, r.GetVolumeId()); err != nil {
		return nil, notFound(err, r.GetVolumeId())
	}
	block := r.GetVolumeCapability().GetBlock() != nil
	if !block {
		if err := os.MkdirAll(r.GetTargetPath(), 0o750); err != nil {
			return nil, internal(err)
		}
	}
	if done, err := mountinfo.Mounted(r.GetTargetPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(err)
	} else if done {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if block {
		if err := d.publishBlock(ctx, r.GetVolumeId(), r.GetTargetPath()); err != nil {
			return nil, internal(err)
		}
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := bind(d.pool.path(volumes, r.GetVolumeId()), r.GetTargetPath(), r.GetReadonly()); err != nil {
		return nil, internal(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// bind mounts src at dst. A mount that should be read-only and could not be
// made so is taken back.
func bind(src, dst string, readonly bool) error {
	if err := unix.Mount(src, dst, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if !readonly {
		return nil
	}
	if err := unix.Mount("", dst, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(err, unix.Unmount(dst, 0))
	}
	return nil
}

// NodeUnpublishVolume implements the node service.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume id and target are required")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	mounted, err := mountinfo.Mounted(r.GetTargetPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(err)
	}
	if mounted {
		if err := unix.Unmount(r.GetTargetPath(), 0); err != nil {
			return nil, internal(err)
		}
	}
	if err := os.Remove(r.GetTargetPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(err)
	}
	if err := d.unpublishBlock(r.GetVolumeId(), r.GetTargetPath()); err != nil {
		return nil, internal(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

//go:build linux

package csi

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ControllerGetCapabilities implements the controller service.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	} {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// CreateVolume implements the controller service.
func (d *Driver) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name and capabilities are required")
	}
	block := slices.ContainsFunc(r.GetVolumeCapabilities(), func(c *csi.VolumeCapability) bool { return c.GetBlock() != nil })
	d.mu.Lock()
	defer d.mu.Unlock()
	size := r.GetCapacityRange().GetRequiredBytes()
	id := fileName(r.GetName())
	have, err := d.pool.get(volumes, id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		from, least, err := d.source(r.GetVolumeContentSource())
		if err != nil {
			return nil, err
		}
		if size == 0 {
			size = least
		}
		if size < least {
			return nil, status.Errorf(codes.OutOfRange, "%d bytes are less than the source's %d", size, least)
		}
		if err := d.pool.create(ctx, volumes, id, from, facts{Capacity: size, Created: time.Now(), Block: block}); err != nil {
			return nil, internal(err)
		}
	case err != nil:
		return nil, internal(err)
	case have.Block != block:
		return nil, status.Errorf(codes.AlreadyExists, "volume %q exists in another mode", id)
	case have.Capacity != size:
		return nil, status.Errorf(codes.AlreadyExists, "volume %q exists with %d bytes", id, have.Capacity)
	}
	if block { // also of one whose making was cut short
		if err := d.pool.size(volumes, id, size); err != nil {
			return nil, internal(err)
		}
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: id, CapacityBytes: size, ContentSource: r.GetVolumeContentSource(), AccessibleTopology: []*csi.Topology{d.topology()},
	}}, nil
}

// source returns the path of what a volume is to begin as, and its size.
func (d *Driver) source(s *csi.VolumeContentSource) (string, int64, error) {
	var kind, id string
	switch {
	case s.GetSnapshot() != nil:
		kind, id = snapshots, s.GetSnapshot().GetSnapshotId()
	case s.GetVolume() != nil:
		kind, id = volumes, s.GetVolume().GetVolumeId()
	default:
		return "", 0, nil
	}
	f, err := d.pool.get(kind, id)
	if err != nil {
		return "", 0, notFound(err, id)
	}
	return d.pool.path(kind, id), f.Capacity, nil
}

// DeleteVolume implements the controller service.
func (d *Driver) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume id is required")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.pool.remove(ctx, volumes, r.GetVolumeId()); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities implements the controller service.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume id and capabilities are required")
	}
	if _, err := d.pool.get(volumes, r.GetVolumeId()); err != nil {
		return nil, notFound(err, r.GetVolumeId())
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.GetVolumeCapabilities()}}, nil
}

// CreateSnapshot implements the controller service.
func (d *Driver) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if r.GetName() == "" || r.GetSourceVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "name and source are required")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id, source := fileName(r.GetName()), fileName(r.GetSourceVolumeId())
	have, err := d.pool.get(snapshots, id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		from, err := d.pool.get(volumes, source)
		if err != nil {
			return nil, notFound(err, source)
		}
		have = facts{Capacity: from.Capacity, Source: source, Created: time.Now()}
		if err := d.pool.create(ctx, snapshots, id, d.pool.path(volumes, source), have); err != nil {
			return nil, internal(err)
		}
	case err != nil:
		return nil, internal(err)
	case have.Source != source:
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %q exists, of volume %q", id, have.Source)
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshot(id, have)}, nil
}

func snapshot(id string, f facts) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: id, SourceVolumeId: f.Source, SizeBytes: f.Capacity, CreationTime: timestamppb.New(f.Created), ReadyToUse: true}
}

// DeleteSnapshot implements the controller service.
func (d *Driver) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if r.GetSnapshotId() == "" {
		return nil, status.Error(codes.InvalidArgument, "snapshot id is required")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.pool.remove(ctx, snapshots, r.GetSnapshotId()); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// ListSnapshots implements the controller service. Tokens are positions in the
// sorted list.
func (d *Driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids, err := d.pool.list(snapshots)
	if err != nil {
		return nil, internal(err)
	}
	var all []*csi.ListSnapshotsResponse_Entry
	for _, id := range ids {
		f, err := d.pool.get(snapshots, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its making was cut short
		}
		if err != nil {
			return nil, internal(err)
		}
		if matches(r.GetSnapshotId(), id) && matches(r.GetSourceVolumeId(), f.Source) {
			all = append(all, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshot(id, f)})
		}
	}
	first, last, next, err := page(len(all), r.GetStartingToken(), int(r.GetMaxEntries()))
	if err != nil {
		return nil, err
	}
	return &csi.ListSnapshotsResponse{Entries: all[first:last], NextToken: next}, nil
}

func matches(want, have string) bool { return want == "" || want == have }

// page cuts a list of n entries: it returns the bounds of the page that begins
// at the token, and the token of the page after it, if any.
func page(n int, token string, most int) (first, last int, next string, err error) {
	if token != "" {
		if first, err = strconv.Atoi(token); err != nil || first < 0 || first > n {
			return 0, 0, "", status.Errorf(codes.Aborted, "token %q is not one of ours", token)
		}
	}
	if last = n; most > 0 && first+most < n {
		last = first + most
		next = strconv.Itoa(last)
	}
	return first, last, next, nil
}

func internal(err error) error { return status.Error(codes.Internal, err.Error()) }

func notFound(err error, id string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.NotFound, "%q does not exist", id)
	}
	return internal(err)
}

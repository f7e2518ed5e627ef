package s3

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// What is known of a bucket's versions. A bucket never loses them again.
const (
	unknown int32 = iota
	absent
	present
)

// learn takes note of the version that an answer names: none is there in a bucket without.
func (s *Store) learn(version *string) {
	if aws.ToString(version) != "" {
		s.versioning.Store(present)
	} else {
		s.versioning.CompareAndSwap(unknown, absent)
	}
}

// Delete implements store.Store. Where the bucket keeps versions, a plain request would only hide the object, so all versions are
// removed, those that are hidden already included. A bucket without takes one request an object.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	if s.versioning.Load() == unknown {
		head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
		if err != nil {
			return absence(s.statError(ctx, name, err))
		}
		s.learn(head.VersionId)
	}
	if s.versioning.Load() == absent {
		out, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name)})
		if err != nil {
			return absence(classify(ctx, "deleting", name, err))
		}
		if !aws.ToBool(out.DeleteMarker) {
			return nil
		}
		s.versioning.Store(present) // since a moment ago
	}
	return s.deleteVersions(ctx, name)
}

// deleteVersions removes the oldest version first, so that none comes to light again that was replaced or hidden.
func (s *Store) deleteVersions(ctx context.Context, name string) error {
	key := s.key(name)
	found, err := s.versions(ctx, key)
	if err != nil {
		return classify(ctx, "deleting", name, err)
	}
	for _, version := range slices.Backward(found.objects) {
		if err := s.deleteVersion(ctx, key, version); err != nil {
			if s.locked(ctx, key, version, err) {
				return fmt.Errorf("deleting %q: %w", name, store.ErrLocked)
			}
			return classify(ctx, "deleting", name, err)
		}
	}
	for _, marker := range found.markers {
		if err := s.deleteVersion(ctx, key, marker); err != nil {
			return classify(ctx, "deleting", name, err)
		}
	}
	return nil
}

func (s *Store) deleteVersion(ctx context.Context, key, version *string) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: key, VersionId: version})
	if code := reason(err); code == "NoSuchVersion" || code == "NoSuchKey" {
		return nil
	}
	return err
}

// history is what a bucket holds of one key: ids of versions, the latest first.
type history struct {
	objects, markers []*string
	latest           bool // the latest version is an object, not a marker
}

// hidden tells whether there is something, but readers find nothing.
func (h history) hidden() bool { return !h.latest && len(h.objects)+len(h.markers) > 0 }

// versions lists what there is of one key. It comes before all longer keys.
func (s *Store) versions(ctx context.Context, key *string) (h history, err error) {
	in := &s3.ListObjectVersionsInput{Bucket: &s.bucket, Prefix: key}
	for {
		page, err := s.client.ListObjectVersions(ctx, in)
		if err != nil {
			return h, err
		}
		if !h.add(page, *key) {
			return h, errListing
		}
		next, version := aws.ToString(page.NextKeyMarker), aws.ToString(page.NextVersionIdMarker)
		switch {
		case page.IsTruncated == nil:
			return h, errListing
		case !*page.IsTruncated || next > *key:
			return h, nil
		case next != *key || version == aws.ToString(in.VersionIdMarker):
			return h, errListing
		}
		in.KeyMarker, in.VersionIdMarker = page.NextKeyMarker, page.NextVersionIdMarker
	}
}

// add fails if the latest version of the key is not the first, because then the order is none to rely on.
func (h *history) add(page *s3.ListObjectVersionsOutput, key string) bool {
	for _, v := range page.Versions {
		if aws.ToString(v.Key) != key {
			continue
		}
		if aws.ToBool(v.IsLatest) {
			if len(h.objects) > 0 {
				return false
			}
			h.latest = true
		}
		h.objects = append(h.objects, v.VersionId)
	}
	for _, m := range page.DeleteMarkers {
		if aws.ToString(m.Key) == key {
			h.markers = append(h.markers, m.VersionId)
		}
	}
	return true
}

// expiryGrace makes up for the time between the server's refusal and the question why.
const expiryGrace = time.Minute

// locked tells whether the server refused to delete a version because of retention or a legal hold, as far as the
// credentials may know.
func (s *Store) locked(ctx context.Context, key, version *string, err error) bool {
	if code := status(err); code < 400 || code >= 500 {
		return false
	}
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: key, VersionId: version})
	if err != nil {
		return false
	}
	now, ok := middleware.GetServerTime(head.ResultMetadata)
	if !ok {
		now = time.Now()
	}
	return head.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn ||
		head.ObjectLockRetainUntilDate != nil && head.ObjectLockRetainUntilDate.After(now.Add(-expiryGrace))
}

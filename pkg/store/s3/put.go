package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// writerKey is the metadata by which a Put recognises an object as its own.
const writerKey = "lockstep-writer"

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data, s.retention.For > 0)
}

// PutUnlocked implements store.Locker.
func (s *Store) PutUnlocked(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data, false)
}

func (s *Store) put(ctx context.Context, name string, data []byte, lock bool) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	conditional, err := s.conditional(ctx)
	if err != nil {
		return err
	}
	if !conditional {
		return s.putVersion(ctx, name, data, lock)
	}
	in, writer := s.object(name, data)
	if lock {
		s.retain(in, data)
	}
	out, err := s.client.PutObject(ctx, in)
	if err == nil {
		s.learn(out.VersionId)
		return nil
	}
	err = classify(ctx, "storing", name, err)
	if errors.Is(err, store.ErrExists) && s.wrote(ctx, name, nil, writer) {
		return nil
	}
	return err
}

// object is the request to write a new object, and the name of its writer.
func (s *Store) object(name string, data []byte) (in *s3.PutObjectInput, writer string) {
	writer = rand.Text()
	in = &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.key(name), Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		IfNoneMatch: aws.String("*"), Metadata: map[string]string{writerKey: writer},
		ServerSideEncryption: types.ServerSideEncryption(s.encryption.Algorithm),
	}
	if s.encryption.KMSKey != "" {
		in.SSEKMSKeyId = &s.encryption.KMSKey
	}
	return in, writer
}

// retain adds the retention to a request, and the checksum without which Amazon's server refuses it.
func (s *Store) retain(in *s3.PutObjectInput, data []byte) {
	sum := md5.Sum(data)
	in.ContentMD5 = aws.String(base64.StdEncoding.EncodeToString(sum[:]))
	in.ObjectLockMode = types.ObjectLockMode(s.retention.Mode)
	in.ObjectLockRetainUntilDate = aws.Time(s.retention.until())
}

// wrote tells whether the object, or one version of it, was written by writer: the answer to a first attempt that succeeded may
// have been lost, and the second then found its own object.
func (s *Store) wrote(ctx context.Context, name string, version *string, writer string) bool {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name), VersionId: version})
	return err == nil && head.Metadata[writerKey] == writer
}

// writes is what is known of the server's conditional writes. Whoever holds its turn may look and ask.
type writes struct {
	turn               chan struct{}
	known, conditional bool
}

// probe is the object that tells whether the server heeds If-None-Match. No other object can have its name.
const probe = ".lockstep-probe"

var errUnconditional = errors.New("the server ignores If-None-Match, so that objects could be overwritten, and keeps no versions: " +
	"it cannot be used")

// conditional tells whether the server refuses to write an object that exists. Some heed the condition only in buckets without
// versions, or not at all, and tell nobody. It takes one request in the life of a Store, and of an empty bucket one more.
func (s *Store) conditional(ctx context.Context) (bool, error) {
	select {
	case s.writes.turn <- struct{}{}:
		defer func() { <-s.writes.turn }()
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for the first answer of the server: %w", ctx.Err())
	}
	if s.writes.known {
		return s.writes.conditional, nil
	}
	var made []*string
	for range 2 {
		version, refused, err := s.tryProbe(ctx)
		if err != nil {
			return false, err
		}
		if refused {
			s.writes.known, s.writes.conditional = true, true
			return true, nil
		}
		made = append(made, version)
	}
	if s.versioning.Load() != present {
		return false, errUnconditional
	}
	for _, version := range made {
		// What cannot be deleted is empty and in nobody's way.
		_ = s.deleteVersion(ctx, s.key(probe), version)
	}
	s.writes.known = true
	return false, nil
}

func (s *Store) tryProbe(ctx context.Context) (version *string, refused bool, err error) {
	in, _ := s.object(probe, nil)
	out, err := s.client.PutObject(ctx, in)
	switch code := status(err); {
	case err == nil:
		s.learn(out.VersionId)
		return out.VersionId, false, nil
	case code == http.StatusPreconditionFailed, code == http.StatusConflict && reason(err) == conflict:
		return nil, true, nil
	}
	return nil, false, classify(ctx, "storing", probe, err)
}

// putVersion writes to a bucket with versions whose server ignores conditions. Nothing is lost there by writing twice, but the
// later version hides the earlier. So of several writers the one whose version is the oldest has won, the others remove theirs,
// and retention, which would keep a loser's version in front for ever, comes last.
func (s *Store) putVersion(ctx context.Context, name string, data []byte, lock bool) error {
	key := s.key(name)
	found, err := s.versions(ctx, key)
	switch {
	case err != nil:
		return classify(ctx, "storing", name, err)
	case found.hidden():
		return fmt.Errorf("storing %q: a deleted object of that name left versions behind: remove them first", name)
	case len(found.objects) > 0:
		return fmt.Errorf("storing %q: %w", name, store.ErrExists)
	}
	in, writer := s.object(name, data)
	out, err := s.client.PutObject(ctx, in)
	if err != nil {
		return classify(ctx, "storing", name, err)
	}
	if found, err = s.versions(ctx, key); err != nil {
		return classify(ctx, "storing", name, err)
	}
	if len(found.objects) == 0 {
		return fmt.Errorf("storing %q: %w: the server lists no version of it", name, store.ErrUnavailable)
	}
	newer, first := found.objects[:len(found.objects)-1], found.objects[len(found.objects)-1]
	for _, version := range newer {
		if err := s.deleteVersion(ctx, key, version); err != nil {
			return classify(ctx, "storing", name, err)
		}
	}
	if aws.ToString(first) != aws.ToString(out.VersionId) && !s.wrote(ctx, name, first, writer) {
		return fmt.Errorf("storing %q: %w", name, store.ErrExists)
	}
	if !lock {
		return nil
	}
	return s.retainVersion(ctx, name, first, types.ObjectLockRetentionMode(s.retention.Mode), s.retention.until())
}

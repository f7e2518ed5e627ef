package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// maxSkew is how far this machine's clock, by which locks are reckoned, may be from the server's, by which they end.
const maxSkew = 5 * time.Minute

// until is when the lock ends of an object that is written now. Servers may not know parts of a second.
func (r Retention) until() time.Time {
	return wholeSecond(time.Now().Add(r.For + store.LockSpare(r.For)))
}

// wholeSecond is the next one.
func wholeSecond(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second).UTC() }

// stricter tells whether a mode locks as strictly as the Store is to, or more so.
func (r Retention) stricter(mode types.ObjectLockRetentionMode) bool {
	return mode == types.ObjectLockRetentionModeCompliance || Mode(mode) == r.Mode
}

// Retention implements store.Locker.
func (s *Store) Retention() time.Duration { return s.retention.For }

// CheckLock implements store.Locker. That the credentials may lock is not known before they have.
func (s *Store) CheckLock(ctx context.Context) error {
	if s.retention.For == 0 {
		return fmt.Errorf("%w: it was not told for how long", store.ErrCannotLock)
	}
	out, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.bucket})
	switch code := status(err); {
	case reason(err) == "ObjectLockConfigurationNotFoundError",
		err == nil && (out.ObjectLockConfiguration == nil || out.ObjectLockConfiguration.ObjectLockEnabled != types.ObjectLockEnabledEnabled):
		return fmt.Errorf("%w: bucket %q has no Object Lock: enable it for the bucket, which takes versioning, too", store.ErrCannotLock, s.bucket)
	case code == http.StatusNotImplemented:
		return fmt.Errorf("%w: the server does not know Object Lock: choose another one", store.ErrCannotLock)
	case code == http.StatusForbidden:
		return s.rights(classify(ctx, "asking for the Object Lock of bucket", s.bucket, err))
	case err != nil:
		return classify(ctx, "asking for the Object Lock of bucket", s.bucket, err)
	}
	server, ok := middleware.GetServerTime(out.ResultMetadata)
	if skew := time.Until(server).Round(time.Second); ok && skew.Abs() > maxSkew {
		return fmt.Errorf("%w as long as asked: the clock here is off by %v from the server's: set it", store.ErrCannotLock, -skew)
	}
	return nil
}

// rights says which ones are missing.
func (s *Store) rights(err error) error {
	return fmt.Errorf("%w: %w: grant s3:GetBucketObjectLockConfiguration, s3:GetObjectRetention and s3:PutObjectRetention", store.ErrCannotLock, err)
}

// LockedUntil implements store.Locker.
func (s *Store) LockedUntil(ctx context.Context, name string) (time.Time, error) {
	if err := store.CheckName(name); err != nil {
		return time.Time{}, err
	}
	mode, until, err := s.retained(ctx, name)
	if err != nil || !s.retention.stricter(mode) {
		return time.Time{}, err
	}
	return until, nil
}

// retained asks for the lock of an object.
func (s *Store) retained(ctx context.Context, name string) (mode types.ObjectLockRetentionMode, until time.Time, err error) {
	out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.bucket, Key: s.key(name)})
	switch code := reason(err); {
	case code == "NoSuchObjectLockConfiguration", code == "ObjectLockConfigurationNotFoundError":
		return "", time.Time{}, nil
	case status(err) == http.StatusForbidden:
		return "", time.Time{}, s.rights(classify(ctx, "asking for the lock of", name, err))
	case status(err) == http.StatusBadRequest: // the bucket has no Object Lock
		return "", time.Time{}, fmt.Errorf("%w: %w", store.ErrCannotLock, classify(ctx, "asking for the lock of", name, err))
	case err != nil:
		return "", time.Time{}, classify(ctx, "asking for the lock of", name, err)
	case out.Retention == nil || out.Retention.RetainUntilDate == nil:
		return "", time.Time{}, nil
	}
	return out.Retention.Mode, *out.Retention.RetainUntilDate, nil
}

// Lock implements store.Locker. It never asks to bypass governance.
func (s *Store) Lock(ctx context.Context, name string, until time.Time) (time.Time, error) {
	if err := store.CheckName(name); err != nil {
		return time.Time{}, err
	}
	until = wholeSecond(until)
	mode, now, err := s.retained(ctx, name)
	if err != nil {
		return time.Time{}, err
	}
	if s.retention.stricter(mode) && !now.Before(until) {
		return now, nil
	}
	want, last := types.ObjectLockRetentionMode(s.retention.Mode), until
	if s.retention.stricter(mode) {
		want = mode
	}
	if now.After(last) {
		last = now
	}
	locking := s.retainVersion(ctx, name, nil, want, last)
	if mode, now, err = s.retained(ctx, name); err != nil {
		return time.Time{}, errors.Join(locking, err)
	}
	switch {
	case s.retention.stricter(mode) && !now.Before(until):
		return now, nil // be it by somebody else
	case mode != "" && !s.retention.stricter(mode):
		return time.Time{}, fmt.Errorf("locking %q: %w as strictly as asked: it is locked in %s mode, which the server does not change: make a new vault "+
			"for %s mode", name, store.ErrCannotLock, mode, s.retention.Mode)
	case locking != nil:
		return time.Time{}, locking
	}
	return time.Time{}, fmt.Errorf("locking %q: %w: the server said that it is locked, and tells otherwise when asked", name, store.ErrCannotLock)
}

// retainVersion locks a version of an object; nil is the latest.
func (s *Store) retainVersion(ctx context.Context, name string, version *string, mode types.ObjectLockRetentionMode, until time.Time) error {
	_, err := s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
		Bucket: &s.bucket, Key: s.key(name), VersionId: version,
		Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: aws.Time(until)},
	})
	switch code := status(err); {
	case err == nil:
		return nil
	case code == http.StatusForbidden:
		return s.rights(classify(ctx, "locking", name, err))
	case code == http.StatusBadRequest:
		return fmt.Errorf("%w: %w", store.ErrCannotLock, classify(ctx, "locking", name, err))
	}
	return classify(ctx, "locking", name, err)
}

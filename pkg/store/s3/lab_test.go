package s3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/s3"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// server is a real S3 server: the one that LOCKSTEP_TEST_S3 names (http://host:port), with the keys of AWS_*.
type server struct {
	t      *testing.T
	url    *url.URL
	client *sdk.Client
}

func realServer(t *testing.T) server {
	t.Helper()
	raw := os.Getenv("LOCKSTEP_TEST_S3")
	if raw == "" {
		t.Skip("NOT RUN: needs a real S3 server: LOCKSTEP_TEST_S3 is not set (`make test-stores` starts Ceph)")
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return server{t, u, sdk.New(sdk.Options{
		BaseEndpoint: &raw, UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})}
}

// bucket makes a bucket, and returns how to open a store in it.
func (srv server) bucket(lock bool) func(*s3.Options) {
	srv.t.Helper()
	name := "test-" + strings.ToLower(rand.Text())
	if _, err := srv.client.CreateBucket(srv.t.Context(), &sdk.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: &lock}); err != nil {
		srv.t.Fatal(err)
	}
	return func(o *s3.Options) {
		o.Bucket, o.AccessKeyID, o.SecretAccessKey = name, os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	}
}

// open opens a store that reaches the server through a proxy.
func (srv server) open(change ...func(*s3.Options)) store.Store {
	srv.t.Helper()
	return open(srv.t, srv.proxy(), func(o *s3.Options) {
		for _, c := range change {
			c(o)
		}
	})
}

// proxy passes requests on as they are: the signature covers the name of the host.
func (srv server) proxy() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = srv.url.Scheme, srv.url.Host
			r.Out.Host = r.In.Host
		},
	}
}

// versions tells how many versions and markers there are of an object.
func (srv server) versions(bucket func(*s3.Options), name string) (versions []types.ObjectVersion, markers int) {
	srv.t.Helper()
	var o s3.Options
	bucket(&o)
	out, err := srv.client.ListObjectVersions(srv.t.Context(), &sdk.ListObjectVersionsInput{Bucket: &o.Bucket, Prefix: aws.String("some/prefix/" + name)})
	if err != nil {
		srv.t.Fatal(err)
	}
	return out.Versions, len(out.DeleteMarkers)
}

func empty(t *testing.T, s store.Store) {
	for info, err := range s.List(context.Background(), "") {
		if err == nil {
			err = s.Delete(context.Background(), info.Name)
		}
		if err != nil {
			t.Errorf("cleaning up: %v", err)
			return
		}
	}
}

func TestRealConformance(t *testing.T) {
	for name, lock := range map[string]bool{"Plain": false, "Versions": true} {
		t.Run(name, func(t *testing.T) {
			srv := realServer(t)
			bucket := srv.bucket(lock)
			storetest.Run(t, func(t *testing.T) store.Store {
				s, err := s3.Open(t.Context(), optionsOf(srv, bucket, "test-"+strings.ToLower(rand.Text())))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { empty(t, s) })
				return s
			})
		})
	}
}

func optionsOf(srv server, bucket func(*s3.Options), prefix string) s3.Options {
	o := s3.Options{Prefix: prefix, Endpoint: srv.url.String(), PathStyle: true}
	bucket(&o)
	return o
}

func retain(mode s3.Mode, duration time.Duration) func(*s3.Options) {
	return func(o *s3.Options) { o.Retention = s3.Retention{Mode: mode, For: duration} }
}

// While retention lasts nobody deletes; then the object goes for good.
func TestRealRetention(t *testing.T) {
	const lasts = 4 * time.Second
	for _, mode := range []s3.Mode{s3.Governance, s3.Compliance} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			srv := realServer(t)
			bucket := srv.bucket(true)
			s := srv.open(bucket, retain(mode, lasts))
			start := time.Now()
			if err := s.Put(t.Context(), "x", []byte("kept")); err != nil {
				t.Fatal(err)
			}
			err := s.Delete(t.Context(), "x")
			if !errors.Is(err, store.ErrLocked) || errors.Is(err, store.ErrDenied) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Delete under retention: %v, want ErrLocked", err)
			}
			if err := s.Put(t.Context(), "x", []byte("other")); !errors.Is(err, store.ErrExists) {
				t.Errorf("Put over it: %v, want ErrExists", err)
			}
			if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || !bytes.Equal(got, []byte("kept")) {
				t.Errorf("Get after a refused Delete: %q, %v", got, err)
			}
			if versions, markers := srv.versions(bucket, "x"); len(versions) != 1 || markers != 0 {
				t.Errorf("%d versions and %d markers, want the object alone", len(versions), markers)
			}
			for err = s.Delete(t.Context(), "x"); errors.Is(err, store.ErrLocked) && time.Since(start) < 10*lasts; err = s.Delete(t.Context(), "x") {
				pause(t, 100*time.Millisecond)
			}
			if took := time.Since(start); err != nil || took < lasts-time.Second {
				t.Errorf("Delete: %v after %v, want success after %v", err, took, lasts)
			}
			if versions, markers := srv.versions(bucket, "x"); len(versions) != 0 || markers != 0 {
				t.Errorf("%d versions and %d markers are left", len(versions), markers)
			}
		})
	}
}

// A bucket with Object Lock locks, prolongs and tells of it, in both modes; what is left is never deleted.
func TestRealLocks(t *testing.T) {
	for _, mode := range []s3.Mode{s3.Governance, s3.Compliance} {
		t.Run(string(mode), func(t *testing.T) {
			srv := realServer(t)
			bucket := srv.bucket(true)
			storetest.RunLocks(t, time.Hour, func(t *testing.T) store.Locker {
				return lockerIn(t, srv, bucket, retain(mode, time.Hour))
			})
		})
	}
}

func lockerIn(t *testing.T, srv server, bucket func(*s3.Options), change func(*s3.Options)) store.Locker {
	t.Helper()
	o := optionsOf(srv, bucket, "test-"+strings.ToLower(rand.Text()))
	change(&o)
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A bucket without Object Lock says so before anything is written.
func TestRealNoLock(t *testing.T) {
	srv := realServer(t)
	s := lockerIn(t, srv, srv.bucket(false), retain(s3.Governance, time.Hour))
	if err := s.CheckLock(t.Context()); !errors.Is(err, store.ErrCannotLock) || !strings.Contains(err.Error(), "enable it") {
		t.Errorf("CheckLock: %v, want ErrCannotLock and how to mend it", err)
	}
	if err := s.PutUnlocked(t.Context(), "x", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(t.Context(), "x", time.Now().Add(time.Hour)); !errors.Is(err, store.ErrCannotLock) {
		t.Errorf("Lock: %v, want ErrCannotLock", err)
	}
}

// What governance locks does not count as locked for a store that is to lock in compliance mode, and is never reported so.
func TestRealStricterMode(t *testing.T) {
	srv := realServer(t)
	bucket := srv.bucket(true)
	prefix := func(mode s3.Mode) func(*s3.Options) {
		return func(o *s3.Options) {
			o.Prefix = "same"
			retain(mode, time.Hour)(o)
		}
	}
	loose, strict := lockerIn(t, srv, bucket, prefix(s3.Governance)), lockerIn(t, srv, bucket, prefix(s3.Compliance))
	if err := loose.Put(t.Context(), "x", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if until, err := strict.LockedUntil(t.Context(), "x"); err != nil || !until.IsZero() {
		t.Errorf("governance counts as compliance: %v, %v", until, err)
	}
	until, err := strict.Lock(t.Context(), "x", time.Now().Add(time.Hour))
	if read, readErr := strict.LockedUntil(t.Context(), "x"); readErr != nil || err == nil && !read.Equal(until) || err != nil && !read.IsZero() {
		t.Errorf("Lock: %v, %v, and then it is locked until %v, %v", until, err, read, readErr)
	}
	t.Logf("governance made stricter: %v, %v", until, err)
}

// pause waits between two looks at a condition.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

func TestRealLegalHold(t *testing.T) {
	srv := realServer(t)
	bucket := srv.bucket(true)
	s := srv.open(bucket)
	if err := s.Put(t.Context(), "x", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	hold := func(status types.ObjectLockLegalHoldStatus) {
		t.Helper()
		var o s3.Options
		bucket(&o)
		if _, err := srv.client.PutObjectLegalHold(t.Context(), &sdk.PutObjectLegalHoldInput{
			Bucket: &o.Bucket, Key: aws.String("some/prefix/x"), LegalHold: &types.ObjectLockLegalHold{Status: status},
		}); err != nil {
			t.Fatal(err)
		}
	}
	hold(types.ObjectLockLegalHoldStatusOn)
	if err := s.Delete(t.Context(), "x"); !errors.Is(err, store.ErrLocked) {
		t.Errorf("Delete under a legal hold: %v, want ErrLocked", err)
	}
	hold(types.ObjectLockLegalHoldStatusOff)
	if err := s.Delete(t.Context(), "x"); err != nil {
		t.Errorf("Delete after the hold: %v", err)
	}
	if versions, markers := srv.versions(bucket, "x"); len(versions) != 0 || markers != 0 {
		t.Errorf("%d versions and %d markers are left", len(versions), markers)
	}
}

// What others hide or write over in a bucket with versions is found, and a Delete takes all of it.
func TestRealVersionsOfOthers(t *testing.T) {
	srv := realServer(t)
	bucket := srv.bucket(true)
	s := srv.open(bucket)
	if err := s.Put(t.Context(), "x", []byte("ours")); err != nil {
		t.Fatal(err)
	}
	var o s3.Options
	bucket(&o)
	key := aws.String("some/prefix/x")
	for range 3 {
		if _, err := srv.client.DeleteObject(t.Context(), &sdk.DeleteObjectInput{Bucket: &o.Bucket, Key: key}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Stat of a hidden object: %v, want ErrNotFound", err)
	}
	if _, err := srv.client.PutObject(t.Context(), &sdk.PutObjectInput{Bucket: &o.Bucket, Key: key, Body: strings.NewReader("theirs")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if versions, markers := srv.versions(bucket, "x"); len(versions) != 0 || markers != 0 {
		t.Errorf("%d versions and %d markers are left", len(versions), markers)
	}
}

// A writer that loses a race, or the answer to its request, leaves one version, the winner's, and it is under retention.
func TestRealRaces(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, http.Handler, func(*s3.Options)){"race": loseRace, "x": loseAnswer} {
		t.Run(name, func(t *testing.T) {
			srv := realServer(t)
			bucket := srv.bucket(true)
			lose(t, srv.proxy(), func(o *s3.Options) {
				bucket(o)
				retain(s3.Governance, 5*time.Second)(o)
			})
			versions, markers := srv.versions(bucket, name)
			if len(versions) != 1 || markers != 0 {
				t.Fatalf("%d versions and %d markers, want one version", len(versions), markers)
			}
			if err := srv.open(bucket).Delete(t.Context(), name); !errors.Is(err, store.ErrLocked) {
				t.Errorf("Delete of what is left: %v, want ErrLocked", err)
			}
		})
	}
}

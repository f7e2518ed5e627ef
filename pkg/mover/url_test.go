package mover_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
)

func TestURL(t *testing.T) {
	bucket := &v1alpha1.S3Location{Bucket: "bucket"}
	lock := func(mode v1alpha1.LockMode, d time.Duration) *v1alpha1.Immutability {
		return &v1alpha1.Immutability{Mode: mode, Retention: metav1.Duration{Duration: d}}
	}
	for want, test := range map[string]struct {
		spec v1alpha1.VaultSpec
		lock time.Duration
	}{
		"s3://bucket": {spec: v1alpha1.VaultSpec{S3: bucket}},
		"s3://bucket/p/q?endpoint=http://h:1&region=r": {
			spec: v1alpha1.VaultSpec{S3: &v1alpha1.S3Location{Bucket: "bucket", Prefix: "p/q", Region: "r", Endpoint: "http://h:1"}}},
		"file:///a%20b": {spec: v1alpha1.VaultSpec{Filesystem: &v1alpha1.FilesystemLocation{Path: "/a b"}}},
		"s3://bucket?lock=governance:720h0m0s": {
			spec: v1alpha1.VaultSpec{S3: bucket, Immutability: lock(v1alpha1.LockGovernance, 720*time.Hour)}, lock: 720 * time.Hour},
		"s3://bucket?lock=compliance:1h30m0s": {
			spec: v1alpha1.VaultSpec{S3: bucket, Immutability: lock(v1alpha1.LockCompliance, 90*time.Minute)}, lock: 90 * time.Minute},
	} {
		got, err := mover.URL(test.spec)
		if err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		if !strings.HasPrefix(got, "s3") {
			continue
		}
		s, err := backend.Open(t.Context(), got, backend.Credentials{AccessKeyID: "a", SecretAccessKey: "b"})
		if err != nil {
			t.Errorf("the store does not read it: %v", err)
		} else if l, ok := s.(store.Locker); !ok || l.Retention() != test.lock {
			t.Errorf("%s: the store does not lock for %v", got, test.lock)
		}
	}
	for why, spec := range map[string]v1alpha1.VaultSpec{
		"neither":  {},
		"needs s3": {Filesystem: &v1alpha1.FilesystemLocation{Path: "/a"}, Immutability: lock(v1alpha1.LockGovernance, time.Hour)},
	} {
		if got, err := mover.URL(spec); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("got %q, %v, want a word about %q", got, err, why)
		}
	}
}

package mover

import (
	"errors"
	"net/url"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// URL is the place of a Vault in the words of store/backend, with the lock that its objects are to have.
func URL(spec v1alpha1.VaultSpec) (string, error) {
	switch {
	case spec.Filesystem != nil && spec.Immutability != nil:
		return "", errors.New("a filesystem cannot lock files: immutability needs s3")
	case spec.Filesystem != nil:
		return (&url.URL{Scheme: "file", Path: spec.Filesystem.Path}).String(), nil
	case spec.S3 == nil:
		return "", errors.New("the Vault says neither s3 nor filesystem")
	}
	u := url.URL{Scheme: "s3", Host: spec.S3.Bucket}
	if spec.S3.Prefix != "" {
		u.Path = "/" + spec.S3.Prefix
	}
	q := url.Values{}
	if spec.S3.Endpoint != "" {
		q.Set("endpoint", spec.S3.Endpoint)
	}
	if spec.S3.Region != "" {
		q.Set("region", spec.S3.Region)
	}
	if i := spec.Immutability; i != nil {
		q.Set("lock", strings.ToLower(string(i.Mode))+":"+i.Retention.Duration.String())
	}
	// Escapes that a query does not need would only make the endpoint hard to read.
	u.RawQuery = strings.NewReplacer("%3A", ":", "%2F", "/").Replace(q.Encode())
	return u.String(), nil
}

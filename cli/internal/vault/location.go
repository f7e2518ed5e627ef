package vault

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// IsURL reports whether what --vault says is a URL and not the name of a Vault in a cluster.
func IsURL(s string) bool { return strings.Contains(s, "://") }

// URL is the store URL of a Vault.
func URL(spec v1alpha1.VaultSpec) (string, error) {
	switch {
	case spec.Filesystem != nil:
		return (&url.URL{Scheme: "file", Path: spec.Filesystem.Path}).String(), nil
	case spec.S3 != nil:
		u := url.URL{Scheme: "s3", Host: spec.S3.Bucket}
		if spec.S3.Prefix != "" {
			u.Path = "/" + spec.S3.Prefix
		}
		// Escapes that a query does not need would only make the endpoint hard to read.
		readable := strings.NewReplacer("%3A", ":", "%2F", "/")
		q := url.Values{}
		if spec.S3.Endpoint != "" {
			q.Set("endpoint", spec.S3.Endpoint)
		}
		if spec.S3.Region != "" {
			q.Set("region", spec.S3.Region)
		}
		u.RawQuery = readable.Replace(q.Encode())
		return u.String(), nil
	default:
		return "", fmt.Errorf("the Vault says neither s3 nor filesystem")
	}
}

// Spec is the inverse of URL; the Secrets are the caller's.
func Spec(raw string) (v1alpha1.VaultSpec, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's error quotes the URL, which may hold a secret by mistake.
		return v1alpha1.VaultSpec{}, badURL("cannot be parsed")
	}
	if u.User != nil {
		return v1alpha1.VaultSpec{}, badURL("must not contain credentials")
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return v1alpha1.VaultSpec{}, badURL("has no absolute path")
		}
		if u.RawQuery != "" {
			return v1alpha1.VaultSpec{}, badURL("has parameters, and a file has none")
		}
		return v1alpha1.VaultSpec{Filesystem: &v1alpha1.FilesystemLocation{Path: u.Path}}, nil
	case "s3":
		return s3Spec(u)
	default:
		return v1alpha1.VaultSpec{}, badURL(fmt.Sprintf("has the unknown scheme %q", u.Scheme))
	}
}

func s3Spec(u *url.URL) (v1alpha1.VaultSpec, error) {
	if u.Host == "" {
		return v1alpha1.VaultSpec{}, badURL("has no bucket")
	}
	s3 := &v1alpha1.S3Location{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	for name, values := range u.Query() {
		if len(values) > 1 {
			return v1alpha1.VaultSpec{}, badURL(fmt.Sprintf("has the parameter %q more than once", name))
		}
		switch name {
		case "region":
			s3.Region = values[0]
		case "endpoint":
			s3.Endpoint = values[0]
		case "path-style":
			return v1alpha1.VaultSpec{}, badURL("sets path-style, which a Vault object decides by its endpoint")
		default:
			return v1alpha1.VaultSpec{}, badURL(fmt.Sprintf("has the unknown parameter %q", name))
		}
	}
	return v1alpha1.VaultSpec{S3: s3}, nil
}

func badURL(why string) error {
	return fault.New(fault.Usage, "Write file:///path or s3://bucket/prefix?endpoint=https://host&region=name; "+
		"credentials come from the AWS_* environment.", "the vault's URL %s", why)
}

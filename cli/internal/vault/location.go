package vault

import (
	"fmt"
	"net/url"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
)

// IsURL reports whether what --vault says is a URL and not the name of a Vault in a cluster.
func IsURL(s string) bool { return strings.Contains(s, "://") }

// Spec is the inverse of mover.URL; the Secrets are the caller's.
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
	var immutability *v1alpha1.Immutability
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
		case "lock":
			mode, retention, err := backend.ParseLock(values[0])
			if err != nil {
				return v1alpha1.VaultSpec{}, badURL("has a bad lock: " + err.Error())
			}
			immutability = &v1alpha1.Immutability{Mode: v1alpha1.LockGovernance, Retention: metav1.Duration{Duration: retention}}
			if mode == "compliance" {
				immutability.Mode = v1alpha1.LockCompliance
			}
		case "path-style":
			return v1alpha1.VaultSpec{}, badURL("sets path-style, which a Vault object decides by its endpoint")
		default:
			return v1alpha1.VaultSpec{}, badURL(fmt.Sprintf("has the unknown parameter %q", name))
		}
	}
	return v1alpha1.VaultSpec{S3: s3, Immutability: immutability}, nil
}

func badURL(why string) error {
	return fault.New(fault.Usage, "Write file:///path or s3://bucket/prefix?endpoint=https://host&region=name; "+
		"credentials come from the AWS_* environment.", "the vault's URL %s", why)
}

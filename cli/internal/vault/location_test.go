package vault_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

func TestURLAndSpecAreInverse(t *testing.T) {
	for _, test := range []struct {
		url  string
		spec v1alpha1.VaultSpec
	}{
		{"file:///mnt/vault", v1alpha1.VaultSpec{Filesystem: &v1alpha1.FilesystemLocation{Path: "/mnt/vault"}}},
		{"s3://acme", v1alpha1.VaultSpec{S3: &v1alpha1.S3Location{Bucket: "acme"}}},
		{"s3://acme/prod/eu?region=eu-west-1", v1alpha1.VaultSpec{S3: &v1alpha1.S3Location{Bucket: "acme", Prefix: "prod/eu", Region: "eu-west-1"}}},
		{
			"s3://acme/prod?endpoint=https://s3.example.com:9000&region=x",
			v1alpha1.VaultSpec{S3: &v1alpha1.S3Location{Bucket: "acme", Prefix: "prod", Region: "x", Endpoint: "https://s3.example.com:9000"}},
		},
		{
			"s3://acme?lock=compliance:720h0m0s",
			v1alpha1.VaultSpec{S3: &v1alpha1.S3Location{Bucket: "acme"}, Immutability: &v1alpha1.Immutability{
				Mode: v1alpha1.LockCompliance, Retention: metav1.Duration{Duration: 720 * time.Hour}}},
		},
	} {
		t.Run(test.url, func(t *testing.T) {
			spec, err := vault.Spec(test.url)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.spec, spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			url, err := mover.URL(spec)
			if err != nil || url != test.url {
				t.Errorf("URL of the spec: %q, %v", url, err)
			}
		})
	}
}

func TestSpecRefuses(t *testing.T) {
	for url, why := range map[string]string{
		"ftp://host/path":               "unknown scheme",
		"file://host/path":              "no absolute path",
		"s3://me:hunter2@acme":          "must not contain credentials",
		"s3://acme?lock=forever:1h":     "bad lock",
		"s3://acme?path-style=true":     "path-style",
		"s3://acme\x7f/hunter2":         "cannot be parsed",
		"s3://":                         "no bucket",
		"s3://acme?regoin=x":            `unknown parameter "regoin"`,
		"s3://acme?region=a&region=b":   `"region" more than once`,
		"file:///path?region=eu-west-1": "parameters",
	} {
		_, err := vault.Spec(url)
		switch {
		case fault.CodeOf(err) != fault.Usage:
			t.Errorf("%q: %v, want wrong usage", url, err)
		case !strings.Contains(err.Error(), why):
			t.Errorf("%q: %v, want a word about %q", url, err, why)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%q: the error holds a secret: %v", url, err)
		}
	}
}

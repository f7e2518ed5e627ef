package backend_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
)

func roundTrip(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Put(t.Context(), "a/b", []byte("data")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "a/b", 0, -1); err != nil || string(got) != "data" {
		t.Errorf("Get = %q, %v", got, err)
	}
}

func TestFile(t *testing.T) {
	raw := "file://" + filepath.Join(t.TempDir(), "new", "vault")
	if _, err := backend.Open(t.Context(), raw, backend.Credentials{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Open of a missing directory: %v, want ErrUnavailable", err)
	}
	s, err := backend.Create(t.Context(), raw, backend.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s)
	if s, err = backend.Open(t.Context(), raw, backend.Credentials{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
}

func TestS3(t *testing.T) {
	fake := s3mem.New()
	if err := fake.CreateBucket("acme"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(fake).Server())
	defer server.Close()
	s, err := backend.Open(t.Context(), "s3://acme/dr/prod?region=eu-west-1&endpoint="+url.QueryEscape(server.URL),
		backend.Credentials{AccessKeyID: "id", SecretAccessKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s)
	if _, err := fake.HeadObject("acme", "dr/prod/a/b"); err != nil {
		t.Errorf("object is not under the prefix: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                   "unknown scheme",
		"/var/vault":                         "unknown scheme",
		"gs://bucket":                        "unknown scheme",
		"file://relative/path":               "file:///absolute/path",
		"file:relative":                      "file:///absolute/path",
		"file:///x?y=z":                      "file:///absolute/path",
		"s3:///prefix":                       "s3://bucket",
		"s3://bucket:9000/x":                 "s3://bucket",
		"s3://bucket?endpoint=host":          "want http://host",
		"s3://bucket?endpoint=http://a:b@c":  "want http://host",
		"s3://bucket?path-style=maybe":       "true or false",
		"s3://bucket?colour=red":             `unknown parameter "colour"`,
		"s3://bucket?region=a&region=b":      "2 times",
		"s3://AKIA:hunter2@bucket/prefix":    "must not contain credentials",
		"s3://AKIA:hunter2@bucket/%zzprefix": "cannot be parsed",
	} {
		_, err := backend.Open(t.Context(), raw, backend.Credentials{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q): %v, want an error with %q", raw, err, want)
		}
	}
}

func TestCredentialsAreHidden(t *testing.T) {
	c := backend.Credentials{AccessKeyID: "id", SecretAccessKey: "hunter2", SessionToken: "hunter2"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if got := fmt.Sprintf(verb, c) + fmt.Sprintf(verb, &c); strings.Contains(got, "hunter2") || strings.Contains(got, "68756e") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

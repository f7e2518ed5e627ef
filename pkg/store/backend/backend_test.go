package backend_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// What a URL says of objects is in the request that writes one.
func TestS3Parameters(t *testing.T) {
	for query, want := range map[string]map[string]string{
		"":                             {"X-Amz-Object-Lock-Mode": "", "X-Amz-Server-Side-Encryption": ""},
		"sse=AES256":                   {"X-Amz-Server-Side-Encryption": "AES256"},
		"sse=aws:kms&kms-key=alias/dr": {"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "alias/dr"},
		"lock=governance:30d":          {"X-Amz-Object-Lock-Mode": "GOVERNANCE", "retained": "720h"},
		"lock=compliance:36h30m":       {"X-Amz-Object-Lock-Mode": "COMPLIANCE", "retained": "36h30m"},
	} {
		t.Run(query, func(t *testing.T) {
			var header http.Header
			s := openS3(t, "s3://acme/dr?"+query, func(r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/x") {
					header = r.Header
				}
			})
			if err := s.Put(t.Context(), "x", []byte("data")); err != nil {
				t.Fatal(err)
			}
			for name, value := range want {
				if name == "retained" {
					until, err := time.Parse(time.RFC3339, header.Get("X-Amz-Object-Lock-Retain-Until-Date"))
					d, _ := time.ParseDuration(value)
					if left := time.Until(until); err != nil || left > d+store.LockSpare(d)+time.Second || left < d {
						t.Errorf("retained for %v, %v; want %v", left, err, d)
					}
				} else if got := header.Get(name); got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
		})
	}
}

func TestS3Limits(t *testing.T) {
	const size = 8 << 10
	for query, limit := range map[string]int64{"upload-limit=16KiB": 16 << 10, "upload-limit=16384": 16 << 10, "upload-limit=20KB": 20e3} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			s := openS3(t, "s3://acme/dr?"+query, func(*http.Request) {})
			start := time.Now()
			if err := s.Put(t.Context(), "x", make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			least := time.Duration(size-4<<10) * time.Second / time.Duration(limit)
			if took := time.Since(start); took < least || took > 200*least {
				t.Errorf("%d bytes took %v, want about %v", size, took, least)
			}
		})
	}
}

// openS3 opens a store on a fake server, and has every request seen.
func openS3(t *testing.T, raw string, see func(*http.Request)) store.Store {
	t.Helper()
	fake := s3mem.New()
	if err := fake.CreateBucket("acme"); err != nil {
		t.Fatal(err)
	}
	handler := gofakes3.New(fake).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		see(r)
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s, err := backend.Open(t.Context(), raw+"&region=eu-west-1&endpoint="+url.QueryEscape(server.URL),
		backend.Credentials{AccessKeyID: "id", SecretAccessKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	return s
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
		"s3://bucket?sse=rot13":              "want AES256",
		"s3://bucket?kms-key=k":              "aws:kms",
		"s3://bucket?sse=AES256&kms-key=k":   "aws:kms",
		"s3://bucket?lock=":                  "governance:30d",
		"s3://bucket?lock=governance":        "governance:30d",
		"s3://bucket?lock=governance:30":     "governance:30d",
		"s3://bucket?lock=Governance:30d":    "governance:30d",
		"s3://bucket?lock=governance:-1d":    "governance:30d",
		"s3://bucket?lock=governance:0s":     "governance:30d",
		"s3://bucket?lock=none:1d":           "governance:30d",
		"s3://bucket?lock=compliance:99999d": "governance:30d",
		"s3://bucket?upload-limit=0":         "above 0",
		"s3://bucket?upload-limit=-1":        "above 0",
		"s3://bucket?upload-limit=":          "above 0",
		"s3://bucket?upload-limit=1TiB":      "above 0",
		"s3://bucket?upload-limit=1iB":       "above 0",
		"s3://bucket?download-limit=1.5MB":   "above 0",
		"s3://bucket?Lock=governance:30d":    `unknown parameter "Lock"`,
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

package s3_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// fakeVersions is as fake, but the bucket keeps versions.
func fakeVersions(t *testing.T) http.Handler {
	t.Helper()
	return serve(newestFirst{versioned(t)})
}

// newestFirst lists the versions of a key in the order in which servers do.
type newestFirst struct{ *s3mem.Backend }

func (b newestFirst) ListBucketVersions(bucket string, prefix *gofakes3.Prefix, page *gofakes3.ListBucketVersionsPage) (*gofakes3.ListBucketVersionsResult, error) {
	result, err := b.Backend.ListBucketVersions(bucket, prefix, page)
	if err != nil {
		return nil, err
	}
	key := func(item gofakes3.VersionItem) string {
		if v, ok := item.(*gofakes3.Version); ok {
			return v.Key
		}
		return item.(*gofakes3.DeleteMarker).Key
	}
	slices.Reverse(result.Versions)
	slices.SortStableFunc(result.Versions, func(a, b gofakes3.VersionItem) int { return strings.Compare(key(a), key(b)) })
	return result, nil
}

func versioned(t *testing.T) *s3mem.Backend {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("vault"); err != nil {
		t.Fatal(err)
	}
	if err := backend.SetVersioningConfiguration("vault", gofakes3.VersioningConfiguration{Status: gofakes3.VersioningEnabled}); err != nil {
		t.Fatal(err)
	}
	return backend
}

// left counts versions and markers in the bucket, those of the probe aside.
func left(t *testing.T, backend *s3mem.Backend) (n int) {
	t.Helper()
	all, err := backend.ListBucketVersions("vault", &gofakes3.Prefix{}, &gofakes3.ListBucketVersionsPage{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all.Versions {
		switch v := v.(type) {
		case *gofakes3.Version:
			if "/vault/"+v.Key != probe {
				n++
			}
		case *gofakes3.DeleteMarker:
			n++
		}
	}
	return n
}

func TestConformanceWithVersions(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, fakeVersions(t), nil) })
}

// Without versions an object costs one request; a Store that has written nothing yet asks once.
func TestDeleteRequests(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler http.Handler
		want    []string
	}{
		{"no versions", fake(t), []string{"HEAD a", "DELETE a", "DELETE b", "DELETE b"}},
		{"versions", fakeVersions(t), []string{"HEAD a", "GET ?versions", "DELETE a?versionId",
			"GET ?versions", "DELETE b?versionId", "GET ?versions"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			writer := open(t, c.handler, nil)
			for _, name := range []string{"a", "b"} {
				if err := writer.Put(t.Context(), name, nil); err != nil {
					t.Fatal(err)
				}
			}
			server := &recorder{Handler: c.handler}
			s := open(t, server, nil)
			for _, name := range []string{"a", "b", "b"} {
				if err := s.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(c.want, server.take()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// Nothing is left of an object, however many versions and markers others made of it, and its neighbours stay.
func TestDeleteRemovesAllVersions(t *testing.T) {
	backend := versioned(t)
	s := open(t, serve(newestFirst{backend}), nil)
	for _, name := range []string{"a", "a-longer-name", "a/below"} {
		if err := s.Put(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		for _, hidden := range []bool{false, true} {
			if _, err := backend.PutObject("vault", "some/prefix/a", map[string]string{}, strings.NewReader("1"), int64(1), nil); err != nil {
				t.Fatal(err)
			}
			if hidden {
				if _, err := backend.DeleteObject("vault", "some/prefix/a"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Stat of a hidden object: %v, want ErrNotFound", err)
	}
	if n := left(t, backend); n != 1+2*20+20+2 {
		t.Fatalf("%d versions were made", n)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if n := left(t, backend); n != 2 {
		t.Errorf("%d versions are left, want one of each neighbour", n)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Stat after Delete: %v, want ErrNotFound", err)
	}
}

// A bucket that begins to keep versions while a Store believes it does not is found out by the marker.
func TestVersioningBeginsMeanwhile(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("vault"); err != nil {
		t.Fatal(err)
	}
	s := open(t, serve(newestFirst{backend}), nil)
	if err := s.Put(t.Context(), "before", nil); err != nil {
		t.Fatal(err)
	}
	if err := backend.SetVersioningConfiguration("vault", gofakes3.VersioningConfiguration{Status: gofakes3.VersioningEnabled}); err != nil {
		t.Fatal(err)
	}
	if _, err := backend.PutObject("vault", "some/prefix/after", map[string]string{}, strings.NewReader("1"), 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "after"); err != nil {
		t.Fatal(err)
	}
	if n := left(t, backend); n != 1 {
		t.Errorf("%d versions are left, want that of the other object", n)
	}
}

// Why a server refuses to delete is told by what it says of the object, not by its refusal.
func TestLocked(t *testing.T) {
	later, before := time.Now().Add(time.Hour).UTC().Format(time.RFC3339), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		name   string
		facts  map[string]string
		head   int // status of HEAD; 0 is the server's own
		status int // of DELETE
		want   error
	}{
		{"retention", map[string]string{"X-Amz-Object-Lock-Mode": "GOVERNANCE", "X-Amz-Object-Lock-Retain-Until-Date": later}, 0, 403, store.ErrLocked},
		{"retention, another answer", map[string]string{"X-Amz-Object-Lock-Retain-Until-Date": later}, 0, 400, store.ErrLocked},
		{"legal hold", map[string]string{"X-Amz-Object-Lock-Legal-Hold": "ON"}, 0, 403, store.ErrLocked},
		{"hold ended", map[string]string{"X-Amz-Object-Lock-Legal-Hold": "OFF"}, 0, 403, store.ErrDenied},
		{"retention expired", map[string]string{"X-Amz-Object-Lock-Retain-Until-Date": before}, 0, 403, store.ErrDenied},
		{"no facts", nil, 0, 403, store.ErrDenied},
		{"facts denied", nil, 403, 403, store.ErrDenied},
		{"server fails", map[string]string{"X-Amz-Object-Lock-Retain-Until-Date": later}, 0, 500, store.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			handler := fakeVersions(t)
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodDelete && r.URL.Query().Has("versionId"):
					answer(c.status, failure("AccessDenied")).ServeHTTP(w, r)
				case r.Method == http.MethodHead && r.URL.Query().Has("versionId") && c.head != 0:
					w.WriteHeader(c.head)
				default:
					for name, value := range c.facts {
						w.Header().Set(name, value)
					}
					handler.ServeHTTP(w, r)
				}
			}), nil)
			if err := s.Put(t.Context(), "x", nil); err != nil {
				t.Fatal(err)
			}
			err := s.Delete(t.Context(), "x")
			for _, kind := range []error{store.ErrLocked, store.ErrDenied, store.ErrUnavailable, store.ErrNotFound} {
				if errors.Is(err, kind) != errors.Is(kind, c.want) {
					t.Errorf("Delete: %v, want one that is %v", err, c.want)
				}
			}
			if _, err := s.Stat(t.Context(), "x"); err != nil {
				t.Errorf("after a refused Delete: %v", err)
			}
		})
	}
}

func TestCutListingOfVersions(t *testing.T) {
	for name, body := range map[string]string{
		"empty":            "",
		"no word on end":   `<ListVersionsResult></ListVersionsResult>`,
		"no marker":        `<ListVersionsResult><IsTruncated>true</IsTruncated></ListVersionsResult>`,
		"wrong order":      `<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>some/prefix/x</Key></Version><Version><Key>some/prefix/x</Key><IsLatest>true</IsLatest></Version></ListVersionsResult>`,
		"same marker":      `<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>some/prefix/x</NextKeyMarker></ListVersionsResult>`,
		"marker goes back": `<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker></ListVersionsResult>`,
	} {
		t.Run(name, func(t *testing.T) {
			handler := fakeVersions(t)
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("versions") {
					answer(http.StatusOK, body).ServeHTTP(w, r)
					return
				}
				handler.ServeHTTP(w, r)
			}), nil)
			if err := s.Put(t.Context(), "x", nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(t.Context(), "x"); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Delete: %v, want ErrUnavailable", err)
			}
		})
	}
}

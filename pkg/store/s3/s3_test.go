package s3_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/s3"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// fake returns a fresh fake server with a bucket "vault". It takes conditional writes one at a time, because gofakes3
// checks and writes in two steps.
func fake(t *testing.T) http.Handler {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("vault"); err != nil {
		t.Fatal(err)
	}
	handler := serve(backend)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		// gofakes3 tells of a version although the bucket has none, as no server does.
		answer.Header().Del("X-Amz-Version-Id")
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	})
}

func serve(backend gofakes3.Backend) http.Handler {
	handler := gofakes3.New(backend).Server()
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			mu.Lock()
			defer mu.Unlock()
		}
		handler.ServeHTTP(w, r)
	})
}

func open(t *testing.T, handler http.Handler, change func(*s3.Options)) store.Store {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	o := s3.Options{Bucket: "vault", Prefix: "some/prefix", Endpoint: server.URL, PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret", Attempts: 2}
	if change != nil {
		change(&o)
	}
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, fake(t), nil) })
}

func answer(code int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, body)
	})
}

func failure(code string) string {
	return `<?xml version="1.0"?><Error><Code>` + code + `</Code><Message>no</Message></Error>`
}

func lastError(s store.Store) (n int, last error) {
	for _, err := range s.List(context.Background(), "") {
		if last = err; err == nil {
			n++
		}
	}
	return n, last
}

// Whatever is not the server's clear word about an object leaves its existence unknown.
func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.Handler
		want    error
	}{
		"denied":          {answer(403, failure("AccessDenied")), store.ErrDenied},
		"bad signature":   {answer(403, failure("SignatureDoesNotMatch")), store.ErrDenied},
		"no bucket":       {answer(404, failure("NoSuchBucket")), store.ErrUnavailable},
		"proxy says 404":  {answer(404, "<html>not here</html>"), store.ErrUnavailable},
		"bare 404":        {answer(404, ""), store.ErrUnavailable},
		"server error":    {answer(500, failure("InternalError")), store.ErrUnavailable},
		"overloaded":      {answer(503, failure("SlowDown")), store.ErrUnavailable},
		"other region":    {answer(301, failure("PermanentRedirect")), store.ErrUnavailable},
		"not implemented": {answer(501, failure("NotImplemented")), store.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, c.handler, nil)
			_, getErr := s.Get(t.Context(), "x", 0, -1)
			_, statErr := s.Stat(t.Context(), "x")
			_, listErr := lastError(s)
			for op, err := range map[string]error{"Get": getErr, "Stat": statErr, "List": listErr,
				"Put": s.Put(t.Context(), "x", []byte("x")), "Delete": s.Delete(t.Context(), "x")} {
				if !errors.Is(err, c.want) || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v, want one that is %v", op, err, c.want)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: error tells the secret: %v", op, err)
				}
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	s := open(t, answer(200, ""), func(o *s3.Options) { o.Endpoint = server.URL })
	if _, err := s.Get(t.Context(), "x", 0, -1); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Get: %v, want ErrUnavailable", err)
	}
	if _, err := lastError(s); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("List: %v, want ErrUnavailable", err)
	}
}

func TestMissingBucket(t *testing.T) {
	s := open(t, fake(t), func(o *s3.Options) { o.Bucket = "other" })
	if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Stat in a missing bucket: %v, want ErrUnavailable", err)
	}
}

// A listing that is cut short, in any of the ways a server or a proxy may cut it, ends in an error.
func TestCutListing(t *testing.T) {
	const object = `<Contents><Key>some/prefix/a</Key><Size>1</Size><LastModified>2026-01-02T03:04:05Z</LastModified></Contents>`
	const head = `<?xml version="1.0"?><ListBucketResult>`
	whole := head + `<IsTruncated>false</IsTruncated><KeyCount>1</KeyCount>` + object + `</ListBucketResult>`
	if n, err := lastError(open(t, answer(200, whole), nil)); n != 1 || err != nil {
		t.Fatalf("a whole listing: %d objects, %v", n, err)
	}
	for name, body := range map[string]string{
		"empty body":         "",
		"no root":            `<?xml version="1.0"?>`,
		"cut in the middle":  head + `<IsTruncated>false</IsTruncated>` + object,
		"cut in an object":   head + `<IsTruncated>false</IsTruncated>` + object[:40],
		"no word on its end": head + object + `</ListBucketResult>`,
		"no token":           head + `<IsTruncated>true</IsTruncated>` + object + `</ListBucketResult>`,
		"wrong count":        head + `<IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>` + object + `</ListBucketResult>`,
		"same token again":   head + `<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>` + object + `</ListBucketResult>`,
		"another prefix":     head + `<IsTruncated>false</IsTruncated>` + strings.Replace(object, "some", "none", 1) + `</ListBucketResult>`,
		"html":               `<html><body>Please log in</body></html>`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := lastError(open(t, answer(200, body), nil)); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("error %v, want ErrUnavailable", err)
			}
		})
	}
}

// Many requests at once outlive a short failure of the server, and its word to slow down.
func TestManyFailAtOnce(t *testing.T) {
	const requests = 150
	for code, status := range map[string]int{"InternalError": 500, "SlowDown": 503} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			handler := fake(t)
			var failures atomic.Int32
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && failures.Add(1) <= requests {
					answer(status, failure(code)).ServeHTTP(w, r)
					return
				}
				handler.ServeHTTP(w, r)
			}), func(o *s3.Options) { o.Attempts = 0 })
			if err := s.Put(t.Context(), "x", []byte("1")); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range requests {
				wg.Go(func() {
					if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || string(got) != "1" {
						t.Errorf("Get: %q, %v", got, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// An answer that breaks off is asked for again.
func TestBrokenBody(t *testing.T) {
	handler := fake(t)
	var gets atomic.Int32
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || gets.Add(1) > 1 {
			handler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", "1000")
		w.Write([]byte("half"))
	}), nil)
	data := bytes.Repeat([]byte("x"), 1000)
	if err := s.Put(t.Context(), "x", data); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || !bytes.Equal(got, data) || gets.Load() != 2 {
		t.Errorf("Get after a broken answer: %d bytes, %v, %d requests", len(got), err, gets.Load())
	}
}

// TestSilence: a server that falls silent, before its answer or in the middle of a body or while one is sent, is given up
// and asked again; one that is slow is not.
func TestSilence(t *testing.T) {
	const stall = 2 * time.Second            // the server is slow, too
	data := bytes.Repeat([]byte("x"), 8<<20) // more than the buffers between the two hold
	slowly := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		for part := range slices.Chunk(data, len(data)/8) {
			w.Write(part)
			w.(http.Flusher).Flush()
			time.Sleep(stall / 6)
		}
	}
	for name, c := range map[string]struct {
		method string
		first  func(http.ResponseWriter, *http.Request)
		asked  int32
	}{
		"before the answer":    {http.MethodGet, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 2},
		"in the answer's body": {http.MethodGet, func(w http.ResponseWriter, r *http.Request) { half(w, len(data)); <-r.Context().Done() }, 2},
		"while a body is sent": {http.MethodPut, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 2},
		"slow, not silent":     {http.MethodGet, func(w http.ResponseWriter, _ *http.Request) { slowly(w) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := fake(t)
			var asked atomic.Int32
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == c.method && asked.Add(1) == 1 {
					c.first(w, r)
					return
				}
				handler.ServeHTTP(w, r)
			}), func(o *s3.Options) { o.Stall, o.Attempts = stall, 4 })
			if err := s.Put(t.Context(), "x", data); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("Get: %d bytes, %v", len(got), err)
			}
			if n := asked.Load(); n < c.asked || c.asked == 1 && n > 1 {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
		})
	}
	t.Run("for good", func(t *testing.T) {
		t.Parallel()
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { half(w, 1000); <-r.Context().Done() }),
			func(o *s3.Options) { o.Stall = stall })
		if _, err := s.Get(t.Context(), "x", 0, -1); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "nothing was transferred") {
			t.Errorf("Get: %v", err)
		}
	})
}

// half answers with less than it announces.
func half(w http.ResponseWriter, length int) {
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.Write([]byte("half"))
	w.(http.Flusher).Flush()
}

func pemOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func TestCustomCA(t *testing.T) {
	server := httptest.NewTLSServer(fake(t))
	defer server.Close()
	plain := open(t, nil, func(o *s3.Options) { o.Endpoint = server.URL })
	if _, err := plain.Stat(t.Context(), "x"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("unknown authority: %v, want ErrUnavailable", err)
	}
	trusting := open(t, nil, func(o *s3.Options) { o.Endpoint, o.CACert = server.URL, pemOf(server) })
	if err := trusting.Put(t.Context(), "x", []byte("1")); err != nil {
		t.Errorf("known authority: %v", err)
	}
}

package s3_test

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/s3"
)

const probe = "/vault/some/prefix/.lockstep-probe"

// recorder passes requests on and keeps what they were.
type recorder struct {
	http.Handler
	mu       sync.Mutex
	requests []*http.Request
}

func (rec *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec.mu.Lock()
	rec.requests = append(rec.requests, r)
	rec.mu.Unlock()
	rec.Handler.ServeHTTP(w, r)
}

// take returns the requests since the last take, each as its method and what it is about.
func (rec *recorder) take() (requests []string) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, r := range rec.requests {
		_, what, _ := strings.Cut(r.URL.Path, "/some/prefix/")
		for _, key := range []string{"versions", "versionId", "retention"} {
			if r.URL.Query().Has(key) {
				what += "?" + key
			}
		}
		requests = append(requests, r.Method+" "+what)
	}
	rec.requests = nil
	return requests
}

// unconditional is a server that ignores conditions.
func unconditional(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("If-None-Match")
		handler.ServeHTTP(w, r)
	})
}

// One request writes an object; a Store asks once whether the server heeds the condition that it carries.
func TestPutIsOneConditionalRequest(t *testing.T) {
	server := &recorder{Handler: fake(t)}
	s := open(t, server, nil)
	for _, name := range []string{"packs/x", "y"} {
		if err := s.Put(t.Context(), name, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range server.requests {
		if r.Header.Get("If-None-Match") != "*" {
			t.Errorf("%s %s has If-None-Match %q", r.Method, r.URL.Path, r.Header.Get("If-None-Match"))
		}
	}
	want := []string{"PUT .lockstep-probe", "PUT .lockstep-probe", "PUT packs/x", "PUT y"}
	if diff := cmp.Diff(want, server.take()); diff != "" {
		t.Errorf("requests to an empty bucket (-want +got):\n%s", diff)
	}
	again := open(t, server, nil)
	if err := again.Put(t.Context(), "z", nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PUT .lockstep-probe", "PUT z"}, server.take()); diff != "" {
		t.Errorf("requests of another Store (-want +got):\n%s", diff)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || strings.Contains(info.Name, "probe") {
			t.Errorf("listed %q, %v", info.Name, err)
		}
	}
}

// A server that would overwrite objects is not written to.
func TestServerWithoutConditions(t *testing.T) {
	server := &recorder{Handler: unconditional(fake(t))}
	s := open(t, server, nil)
	err := s.Put(t.Context(), "x", []byte("1"))
	if err == nil || !strings.Contains(err.Error(), "If-None-Match") {
		t.Errorf("Put: %v", err)
	}
	if diff := cmp.Diff([]string{"PUT .lockstep-probe", "PUT .lockstep-probe"}, server.take()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// Where conditions are ignored but versions kept, an object is looked for before it is written. Races are for a real server.
func TestVersionsInsteadOfConditions(t *testing.T) {
	backend := versioned(t)
	s := open(t, unconditional(serve(newestFirst{backend})), nil)
	if err := s.Put(t.Context(), "x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "x", []byte("2")); !errors.Is(err, store.ErrExists) {
		t.Errorf("second Put: %v, want ErrExists", err)
	}
	if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || string(got) != "1" || left(t, backend) != 1 {
		t.Errorf("Get: %q, %v; %d versions; want the first alone", got, err, left(t, backend))
	}
	if _, err := backend.DeleteObject("vault", "some/prefix/x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "x", nil); err == nil || !strings.Contains(err.Error(), "left versions behind") {
		t.Errorf("Put over what was hidden: %v", err)
	}
}

// loseRace has a rival write an object between the look for it and its own request.
func loseRace(t *testing.T, other http.Handler, change func(*s3.Options)) {
	t.Helper()
	rival := open(t, other, change)
	var meddled atomic.Bool
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/race") && meddled.CompareAndSwap(false, true) {
			if err := rival.Put(t.Context(), "race", []byte("rival")); err != nil {
				t.Error(err)
			}
		}
		other.ServeHTTP(w, r)
	}), change)
	if err := s.Put(t.Context(), "race", []byte("mine")); !errors.Is(err, store.ErrExists) {
		t.Errorf("Put of the loser: %v, want ErrExists", err)
	}
	if got, err := s.Get(t.Context(), "race", 0, -1); err != nil || string(got) != "rival" {
		t.Errorf("after the race: %q, %v; want the winner's", got, err)
	}
}

// A Put whose first answer is lost finds its own object at the second attempt and succeeds.
func TestLostAnswer(t *testing.T) {
	for name, server := range map[string]http.Handler{"no versions": fake(t), "versions": fakeVersions(t)} {
		t.Run(name, func(t *testing.T) { loseAnswer(t, server, nil) })
	}
}

func loseAnswer(t *testing.T, server http.Handler, change func(*s3.Options)) {
	t.Helper()
	var puts atomic.Int32
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/x") && !r.URL.Query().Has("retention") && puts.Add(1) == 1 {
			server.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		server.ServeHTTP(w, r)
	}), change)
	if err := s.Put(t.Context(), "x", []byte("mine")); err != nil || puts.Load() != 2 {
		t.Errorf("Put: %v after %d attempts", err, puts.Load())
	}
	if err := s.Put(t.Context(), "x", []byte("mine")); !errors.Is(err, store.ErrExists) {
		t.Errorf("another Put: %v, want ErrExists", err)
	}
	if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || string(got) != "mine" {
		t.Errorf("Get: %q, %v", got, err)
	}
}

// A conflict between two conditional writes is not the last word.
func TestConflict(t *testing.T) {
	handler := fake(t)
	var conflicts atomic.Int32
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.URL.Path != probe && conflicts.Add(1) == 1 {
			answer(http.StatusConflict, failure("ConditionalRequestConflict")).ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}), nil)
	if err := s.Put(t.Context(), "x", nil); err != nil {
		t.Errorf("Put after a conflict: %v", err)
	}
}

// Who may only write needs no other request, and overwrites nothing.
func TestWriteOnly(t *testing.T) {
	for name, handler := range map[string]http.Handler{"no versions": fake(t), "versions": fakeVersions(t)} {
		t.Run(name, func(t *testing.T) {
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPut {
					answer(http.StatusForbidden, failure("AccessDenied")).ServeHTTP(w, r)
					return
				}
				handler.ServeHTTP(w, r)
			}), nil)
			if err := s.Put(t.Context(), "x", []byte("first")); err != nil {
				t.Errorf("Put: %v", err)
			}
			if err := s.Put(t.Context(), "x", []byte("second")); !errors.Is(err, store.ErrExists) {
				t.Errorf("Put over it: %v, want ErrExists", err)
			}
			_, getErr := s.Get(t.Context(), "x", 0, -1)
			_, statErr := s.Stat(t.Context(), "x")
			for op, err := range map[string]error{"Get": getErr, "Stat": statErr, "Delete": s.Delete(t.Context(), "x")} {
				if !errors.Is(err, store.ErrDenied) {
					t.Errorf("%s: %v, want ErrDenied", op, err)
				}
			}
			if got, err := open(t, handler, nil).Get(t.Context(), "x", 0, -1); err != nil || string(got) != "first" {
				t.Errorf("stored is %q, %v", got, err)
			}
		})
	}
}

func TestPutHeaders(t *testing.T) {
	data := []byte("data")
	sum := md5.Sum(data)
	server := &recorder{Handler: fake(t)}
	start := time.Now()
	s := open(t, server, func(o *s3.Options) {
		o.Retention = s3.Retention{Mode: s3.Compliance, For: time.Hour}
		o.Encryption = s3.Encryption{Algorithm: "aws:kms", KMSKey: "alias/vault"}
	})
	if err := s.Put(t.Context(), "x", data); err != nil {
		t.Fatal(err)
	}
	header := server.requests[len(server.requests)-1].Header
	for name, want := range map[string]string{
		"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "alias/vault",
		"X-Amz-Object-Lock-Mode": "COMPLIANCE", "Content-Md5": base64.StdEncoding.EncodeToString(sum[:]),
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	until, err := time.Parse(time.RFC3339, header.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if early, late := start.Add(time.Hour), time.Now().Add(time.Hour+6*time.Minute+time.Second); err != nil || until.Before(early) || until.After(late) {
		t.Errorf("retained until %v, %v; want an hour and a little spare from %v", until, err, start)
	}
	for _, r := range server.requests {
		if r.URL.Path == probe && r.Header.Get("X-Amz-Object-Lock-Mode") != "" {
			t.Error("the probe asks for retention")
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, change := range map[string]func(*s3.Options){
		"no bucket":     func(o *s3.Options) { o.Bucket = "" },
		"retention":     func(o *s3.Options) { o.Retention.Mode = s3.Governance },
		"some time":     func(o *s3.Options) { o.Retention = s3.Retention{Mode: "FOREVER", For: time.Hour} },
		"aws:kms":       func(o *s3.Options) { o.Encryption.Algorithm = "rot13" },
		"needs the enc": func(o *s3.Options) { o.Encryption = s3.Encryption{Algorithm: "AES256", KMSKey: "k"} },
		"negative":      func(o *s3.Options) { o.DownloadLimit = -1 },
	} {
		o := s3.Options{Bucket: "vault"}
		change(&o)
		if _, err := s3.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open: %v, want an error with %q", err, want)
		}
	}
}

// A limit holds for bodies of all requests together, and changes nothing of what they carry.
func TestLimits(t *testing.T) {
	const size, each = 128 << 10, 2
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	// All but the first tenth of a second's bytes have to wait.
	const least = (each*size - (512<<10)/10) * time.Second / (512 << 10)
	for _, c := range []struct {
		name     string
		up, down int64
	}{{"up", 512 << 10, 0}, {"down", 0, 512 << 10}} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, fake(t), func(o *s3.Options) { o.UploadLimit, o.DownloadLimit = c.up, c.down })
			if err := s.Put(t.Context(), "warm", nil); err != nil {
				t.Fatal(err)
			}
			took := map[string]time.Duration{"up": 0, "down": 0}
			for way, transfer := range map[string]func(name string) error{
				"up": func(name string) error { return s.Put(t.Context(), name, data) },
				"down": func(name string) error {
					got, err := s.Get(t.Context(), name, 0, -1)
					if err == nil && !bytes.Equal(got, data) {
						err = errors.New("other data")
					}
					return err
				},
			} {
				if way == "down" {
					for _, name := range []string{"down0", "down1"} {
						if err := s.Put(t.Context(), name, data); err != nil {
							t.Fatal(err)
						}
					}
				}
				start := time.Now()
				var wg sync.WaitGroup
				for _, name := range []string{way + "0", way + "1"} {
					wg.Go(func() {
						if err := transfer(name); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					})
				}
				wg.Wait()
				took[way] = time.Since(start)
			}
			if took[c.name] < least {
				t.Errorf("%d bytes %s took %v, want at least %v", each*size, c.name, took[c.name], least)
			}
		})
	}
}

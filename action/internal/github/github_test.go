package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// standIn is no GitHub: it answers what this package asks, as GitHub's documentation says that it does.
type standIn struct {
	mu       sync.Mutex
	comments []comment
	notes    string
	requests []string
	// fail answers a request instead, if it wants to.
	fail func(w http.ResponseWriter, r *http.Request, n int) bool
	me   string
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	if s.fail != nil && s.fail(w, r, len(s.requests)) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer s3cr3t" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var in struct{ Body string }
	if r.Method != http.MethodGet {
		data, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(data, &in); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	switch path := r.URL.Path; {
	case path == "/user" && s.me == "":
		w.WriteHeader(http.StatusForbidden)
	case path == "/user":
		_ = json.NewEncoder(w).Encode(map[string]string{"login": s.me})
	case path == "/repos/acme/shop/issues/7/comments" && r.Method == http.MethodGet:
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		from := min((page-1)*100, len(s.comments))
		_ = json.NewEncoder(w).Encode(s.comments[from:min(from+100, len(s.comments))])
	case path == "/repos/acme/shop/issues/7/comments":
		c := comment{ID: int64(len(s.comments) + 1), Body: in.Body}
		c.User.Login, c.User.Type = "github-actions[bot]", "Bot"
		s.comments = append(s.comments, c)
		w.WriteHeader(http.StatusCreated)
	case strings.HasPrefix(path, "/repos/acme/shop/issues/comments/") && r.Method == http.MethodPatch:
		id, _ := strconv.Atoi(path[strings.LastIndex(path, "/")+1:])
		s.comments[id-1].Body = in.Body
		_, _ = io.WriteString(w, "{}")
	case path == "/repos/acme/shop/releases/3" && r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(map[string]string{"body": s.notes})
	case path == "/repos/acme/shop/releases/3":
		s.notes = in.Body
		_, _ = io.WriteString(w, "{}")
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func serve(t *testing.T, s *standIn) (*Client, *time.Duration) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	var waited time.Duration
	return &Client{API: server.URL, Token: "s3cr3t", HTTP: server.Client(), Wait: func(_ context.Context, d time.Duration) error {
		waited += d
		return nil
	}}, &waited
}

func by(login, kind, body string) comment {
	c := comment{Body: body}
	c.User.Login, c.User.Type = login, kind
	return c
}

func TestOneCommentOfAKey(t *testing.T) {
	s := &standIn{}
	c, _ := serve(t, s)
	for _, body := range []string{"first", "second", "second"} {
		if err := c.Comment(t.Context(), "acme/shop", 7, "check", body); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Comment(t.Context(), "acme/shop", 7, "other", "another key"); err != nil {
		t.Fatal(err)
	}
	if len(s.comments) != 2 || s.comments[0].Body != marker("check")+"\nsecond" || s.comments[1].Body != marker("other")+"\nanother key" {
		t.Errorf("the comments are %+v", s.comments)
	}
	if n := len(slices.DeleteFunc(slices.Clone(s.requests), func(r string) bool { return !strings.HasPrefix(r, "PATCH") })); n != 1 {
		t.Errorf("%d changes, want 1: what is the same is left alone", n)
	}
}

func TestCommentIsFoundOnALaterPage(t *testing.T) {
	s := &standIn{}
	for i := range 130 {
		s.comments = append(s.comments, by("someone", "User", fmt.Sprint(i)))
	}
	s.comments = append(s.comments, by("github-actions[bot]", "Bot", marker("check")+"\nold"))
	for i := range s.comments {
		s.comments[i].ID = int64(i + 1)
	}
	c, _ := serve(t, s)
	if err := c.Comment(t.Context(), "acme/shop", 7, "check", "new"); err != nil {
		t.Fatal(err)
	}
	if len(s.comments) != 131 || s.comments[130].Body != marker("check")+"\nnew" {
		t.Errorf("%d comments, the last is %q", len(s.comments), s.comments[len(s.comments)-1].Body)
	}
}

func TestWhatAnotherPersonWroteIsNotReplaced(t *testing.T) {
	for me, want := range map[string]int{"": 2, "release-robot": 1} {
		s := &standIn{me: me, comments: []comment{by("stranger", "User", marker("check")+"\nlooks like ours")}}
		if me != "" { // a personal token is of a user
			s.comments[0] = by(me, "User", marker("check")+"\nis ours")
		}
		s.comments[0].ID = 1
		c, _ := serve(t, s)
		if err := c.Comment(t.Context(), "acme/shop", 7, "check", "new"); err != nil {
			t.Fatal(err)
		}
		if len(s.comments) != want {
			t.Errorf("as %q: %d comments, want %d", me, len(s.comments), want)
		}
	}
}

func TestReadOnlyToken(t *testing.T) {
	s := &standIn{fail: func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == http.MethodGet {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"message": "Resource not accessible by integration\n::error::x"}`)
		return true
	}}
	c, waited := serve(t, s)
	err := c.Comment(t.Context(), "acme/shop", 7, "check", "text")
	if !errors.Is(err, ErrNotAllowed) || *waited != 0 || len(s.requests) != 2 {
		t.Errorf("%v after %v and %d requests", err, *waited, len(s.requests))
	}
	if strings.ContainsAny(err.Error(), "\n\r") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("the error is %q", err)
	}
}

func TestRetries(t *testing.T) {
	limited := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusForbidden)
	}
	for name, tt := range map[string]struct {
		fail   func(w http.ResponseWriter, r *http.Request, n int) bool
		ok     bool
		waited time.Duration
	}{
		"server errors pass": {fail: func(w http.ResponseWriter, _ *http.Request, n int) bool {
			if n < 3 {
				w.WriteHeader(http.StatusBadGateway)
			}
			return n < 3
		}, ok: true, waited: 3 * time.Second},
		"server errors stay": {fail: func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}, waited: 7 * time.Second},
		"a rate limit says how long": {fail: func(w http.ResponseWriter, _ *http.Request, n int) bool {
			if n == 1 {
				limited(w)
			}
			return n == 1
		}, ok: true, waited: 7 * time.Second},
		"a limit that lasts too long": {fail: func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			now := time.Now()
			w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
			w.Header().Set("X-RateLimit-Remaining", "0")
			w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(now.Add(time.Hour).Unix(), 10))
			w.WriteHeader(http.StatusForbidden)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &standIn{fail: tt.fail}
			c, waited := serve(t, s)
			err := c.Comment(t.Context(), "acme/shop", 7, "check", "text")
			if (err == nil) != tt.ok || *waited != tt.waited || errors.Is(err, ErrNotAllowed) {
				t.Errorf("%v after waiting %v", err, *waited)
			}
		})
	}
}

// The comment is made, and the answer to that does not arrive.
func TestLostAnswer(t *testing.T) {
	s := &standIn{}
	lost := false
	c, _ := serve(t, s)
	next := c.HTTP.Transport
	c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if r.Method == http.MethodPost && !lost && err == nil {
			lost = true
			_ = resp.Body.Close()
			return nil, errors.New("connection reset")
		}
		return resp, err
	})}
	if err := c.Comment(t.Context(), "acme/shop", 7, "check", "text"); err != nil || len(s.comments) != 1 || !lost {
		t.Errorf("%v, %d comments", err, len(s.comments))
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &standIn{fail: func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		cancel()
		w.WriteHeader(http.StatusBadGateway)
		return true
	}}
	c, _ := serve(t, s)
	if err := c.Comment(ctx, "acme/shop", 7, "check", "text"); err == nil || len(s.requests) != 1 {
		t.Errorf("%v after %d requests", err, len(s.requests))
	}
}

func TestReleaseNotes(t *testing.T) {
	s := &standIn{notes: "What is new: soap.\n"}
	c, _ := serve(t, s)
	for _, section := range []string{"one", "two"} {
		if err := c.ReleaseNotes(t.Context(), "acme/shop", 3, "restore-plan", section); err != nil {
			t.Fatal(err)
		}
	}
	want := "What is new: soap.\n\n" + marker("restore-plan") + "\ntwo\n" + marker("end of restore-plan") + "\n"
	if s.notes != want {
		t.Errorf("the notes are %q, want %q", s.notes, want)
	}
}

package lab

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestFlakyGoesWrongAsTold(t *testing.T) {
	const whole = "<IsTruncated>false</IsTruncated>"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole) }))
	defer server.Close()
	f, err := (&Lab{Address: "127.0.0.1"}).NewFlaky(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	get := func(ctx context.Context) (int, string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	for _, tt := range []struct {
		trouble Trouble
		code    int
		body    string
		fails   bool
	}{
		{Fine, 200, whole, false},
		{Unavailable, 503, "no\n", false},
		{Hangup, 0, "", true},
		{Silence, 0, "", true},
		{HalfBody, 200, whole[:16], true},
		{HalfSilence, 200, whole[:16], true},
		{BitFlip, 200, "<IsTruncated>fal" + "r" + "e</IsTruncated>", false},
		{Gone, 404, `<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>`, false},
		{CutListing, 200, "<IsTruncated>true</IsTruncated>", false},
	} {
		f.Break(func(*http.Request) Trouble { return tt.trouble })
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		code, body, err := get(ctx)
		cancel()
		if code != tt.code || body != tt.body || (err != nil) != tt.fails {
			t.Errorf("trouble %d: %d, %q, %v", tt.trouble, code, body, err)
		}
	}
	f.Break(func(*http.Request) Trouble { return Held })
	answered := make(chan error, 1)
	go func() {
		_, body, err := get(t.Context())
		if body != whole {
			err = errors.Join(err, errors.New(body))
		}
		answered <- err
	}()
	if err := Eventually(t.Context(), time.Minute, func(context.Context) (bool, error) { return f.Hit() == 1, nil }); err != nil {
		t.Fatal(err)
	}
	f.Heal()
	if err := <-answered; err != nil {
		t.Errorf("held and let go: %v", err)
	}
}

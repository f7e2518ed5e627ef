// Package github is the little that the action needs of GitHub's REST API: one comment on a pull request, and one section in the
// notes of a release, each found again and replaced.
package github

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// attempts and patience bound how often and how long a request is tried that GitHub answers with 5xx or a rate limit.
	attempts = 4
	patience = time.Minute
	// maxAnswer bounds what is read of an answer, in bytes: a hundred comments of the greatest length.
	maxAnswer = 16 << 20
	apiDate   = "2022-11-28"
)

// ErrNotAllowed says that the token may not do this, as that of a pull request from a fork.
var ErrNotAllowed = errors.New("the token may not write here")

// Client asks one GitHub. Its errors never hold the token.
type Client struct {
	// API is the address, as GITHUB_API_URL says it.
	API   string
	Token string
	HTTP  *http.Client
	// Wait waits between attempts; time passes otherwise in tests.
	Wait func(context.Context, time.Duration) error
}

// Wait is how long a Client waits in earnest.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// statusError is an answer that is no success.
type statusError struct {
	method, path string
	status       int
	message      string
	// again is how long to wait before asking again; negative if that is no use.
	again time.Duration
}

func (e *statusError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s: GitHub answered %d: %s", e.method, e.path, e.status, e.message), ": ")
}

// Is says that the token lacks the right. GitHub answers 404 where even seeing would need it.
func (e *statusError) Is(target error) bool {
	return target == ErrNotAllowed && e.again < 0 &&
		(e.status == http.StatusUnauthorized || e.status == http.StatusForbidden || e.status == http.StatusNotFound)
}

// do asks once. A body of nil sends none, an answer of nil ignores it.
func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	var send io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.API, "/")+path, send)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", apiDate)
	req.Header.Set("User-Agent", "lockstep-action")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return &statusError{method: method, path: path, message: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it matters
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &statusError{method: method, path: path, status: resp.StatusCode, message: err.Error()}
	}
	if resp.StatusCode/100 != 2 {
		var said struct{ Message string }
		_ = json.Unmarshal(data, &said) // what is no JSON says nothing that is of use here
		return &statusError{method, path, resp.StatusCode, oneLine(said.Message), again(resp)}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s %s: reading GitHub's answer: %w", method, path, err)
	}
	return nil
}

// again says how long an answer asks to wait; 0 if it does not say, negative if the same request will fail again.
func again(resp *http.Response) time.Duration {
	limited := resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusForbidden &&
		(resp.Header.Get("X-RateLimit-Remaining") == "0" || resp.Header.Get("Retry-After") != "")
	if !limited && resp.StatusCode < 500 {
		return -1
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		return time.Duration(s) * time.Second
	}
	if at, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64); limited && err == nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			return max(time.Unix(at, 0).Sub(date), 0) + time.Second
		}
	}
	return 0
}

// retry does what is safe to do over again until it succeeds, GitHub says that it never will, or patience ends.
func (c *Client) retry(ctx context.Context, do func() error) error {
	var waited time.Duration
	for n := 1; ; n++ {
		err := do()
		var e *statusError
		if err == nil || ctx.Err() != nil || n == attempts || !errors.As(err, &e) || e.again < 0 {
			return err
		}
		pause := max(e.again, time.Second<<(n-1))
		if waited += pause; waited > patience {
			return err
		}
		if waitErr := c.Wait(ctx, pause); waitErr != nil {
			return waitErr
		}
	}
}

// oneLine is a text of GitHub's, fit for a line of a log.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

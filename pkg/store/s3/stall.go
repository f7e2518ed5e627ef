package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// defaultStall is how long a connection may carry nothing while an answer is due, or a body is being sent.
const defaultStall = 60 * time.Second

// stallError says that a connection was given up because nothing moved on it. It counts as a timeout, so that the request is
// repeated.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string { return fmt.Sprintf("nothing was transferred for %s", e.after) }

// Timeout makes the client repeat the request.
func (e *stallError) Timeout() bool { return true }

// impatient returns a client that gives up requests on which nothing moves. A server, or a network, that falls silent in
// the middle of a body would otherwise be waited for without end: a body that does move may take any time.
func impatient(c s3.HTTPClient, stall time.Duration) s3.HTTPClient {
	return &impatientClient{client: c, stall: stall}
}

type impatientClient struct {
	client s3.HTTPClient
	stall  time.Duration
}

// Do implements s3.HTTPClient.
func (c *impatientClient) Do(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	stalled := &stallError{after: c.stall}
	w := &watch{ctx: ctx, end: func() { cancel(nil) }, stall: c.stall, timer: time.AfterFunc(c.stall, func() { cancel(stalled) })}
	r = r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &watchedBody{ReadCloser: r.Body, watch: w}
		if getBody := r.GetBody; getBody != nil {
			r.GetBody = func() (io.ReadCloser, error) {
				body, err := getBody()
				if err != nil {
					return nil, err
				}
				return &watchedBody{ReadCloser: body, watch: w}, nil
			}
		}
	}
	response, err := c.client.Do(r)
	if err != nil {
		w.stop()
		return nil, w.explain(err)
	}
	w.moved()
	response.Body = &watchedBody{ReadCloser: response.Body, watch: w, last: true}
	return response, nil
}

// watch ends a request when nothing has moved for too long.
type watch struct {
	ctx   context.Context
	end   func()
	stall time.Duration
	timer *time.Timer
}

func (w *watch) moved() { w.timer.Reset(w.stall) }

func (w *watch) stop() {
	w.timer.Stop()
	w.end()
}

// explain names the stall where the client only knows that the request was cancelled.
func (w *watch) explain(err error) error {
	if stalled := (*stallError)(nil); errors.As(context.Cause(w.ctx), &stalled) {
		return stalled
	}
	return err
}

type watchedBody struct {
	io.ReadCloser
	watch *watch
	last  bool // the request ends with this body
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.moved()
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.watch.explain(err)
	}
	b.watch.moved()
	return n, err
}

func (b *watchedBody) Close() error {
	if b.last {
		b.watch.stop()
	}
	return b.ReadCloser.Close()
}

package s3

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// narrow is a server that answers in 100 ms, and bears so many requests at once.
type narrow struct {
	bears int

	mu                      sync.Mutex
	busy, refused, answered int
}

func (n *narrow) Do(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	n.busy++
	status := http.StatusOK
	if n.busy > n.bears {
		status = http.StatusServiceUnavailable
		n.refused++
	} else {
		n.answered++
	}
	n.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	n.mu.Lock()
	n.busy--
	n.mu.Unlock()
	return &http.Response{StatusCode: status, Body: http.NoBody}, nil
}

// send makes a request through p.
func send(ctx context.Context, p *pace) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server/", nil)
	if err != nil {
		return err
	}
	response, err := p.Do(r)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Clients that together want more than the server bears come down to what it does, and make use of it.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &narrow{bears: 10}
		p := paced(server)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := send(ctx, p); err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(10 * time.Second)
		server.mu.Lock()
		server.refused, server.answered = 0, 0
		server.mu.Unlock()
		time.Sleep(time.Minute)
		server.mu.Lock()
		refused, answered := server.refused, server.answered
		server.mu.Unlock()
		if answered < 6000/2 || refused > answered/10 {
			t.Errorf("in a minute %d requests were answered and %d refused; the server bears 6000", answered, refused)
		}
		stop()
		wg.Wait()
		if p.busy != 0 || len(p.waiting) != 0 {
			t.Errorf("%d requests busy, %d waiting after the end", p.busy, len(p.waiting))
		}
	})
}

// Whoever waits for its turn stops with its context, and takes nobody else's.
func TestPaceCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := paced(&narrow{bears: 10})
		p.limit = 1
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := send(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if err := send(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request that waited: %v", err)
		}
		wg.Wait()
		start := time.Now()
		if err := send(t.Context(), p); err != nil || time.Since(start) != 100*time.Millisecond {
			t.Errorf("the next: %v after %v", err, time.Since(start))
		}
	})
}

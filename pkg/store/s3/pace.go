package s3

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	// mostAtOnce is more than any user of a Store asks for: no limit.
	mostAtOnce = 1024
	// breath is how long a slower pace is given to show effect before it is changed again.
	breath = time.Second
)

// pace keeps a client from sending more requests at once than its server bears. When the server asks to slow down, there may be half
// as many as there were, and a second later one more each time as many went well.
type pace struct {
	client s3.HTTPClient

	mu      sync.Mutex
	limit   float64 // requests at once, at least 1
	busy    int
	waiting []chan struct{} // closed when it is their turn, which counts as busy
	slowed  time.Time
}

func paced(c s3.HTTPClient) *pace { return &pace{client: c, limit: mostAtOnce} }

// Do implements s3.HTTPClient.
func (p *pace) Do(r *http.Request) (*http.Response, error) {
	if err := p.begin(r.Context()); err != nil {
		return nil, err
	}
	response, err := p.client.Do(r)
	switch {
	case err != nil:
		p.end(p.same)
	case response.StatusCode == http.StatusServiceUnavailable, response.StatusCode == http.StatusTooManyRequests:
		p.end(p.slower)
	default:
		p.end(p.faster)
	}
	return response, err
}

func (p *pace) begin(ctx context.Context) error {
	p.mu.Lock()
	if float64(p.busy) < p.limit {
		p.busy++
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.waiting, turn)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		p.end(p.same) // it was its turn by then
	}
	return ctx.Err()
}

// end counts a request out, has the limit changed, and lets others begin.
func (p *pace) end(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.busy--
	for len(p.waiting) > 0 && float64(p.busy) < p.limit {
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
		p.busy++
	}
}

func (p *pace) same() {}

func (p *pace) faster() {
	if p.limit < mostAtOnce && time.Since(p.slowed) >= breath {
		p.limit += 1 / p.limit
	}
}

func (p *pace) slower() {
	if time.Since(p.slowed) >= breath {
		p.limit, p.slowed = max(1, min(p.limit, float64(p.busy))/2), time.Now()
	}
}

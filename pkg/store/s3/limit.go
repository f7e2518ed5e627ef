package s3

import (
	"context"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/time/rate"
)

// limited returns a client whose requests together send and receive at most so many bytes a second in bodies; 0 is no
// limit. It works below the retries, so that what is sent twice counts twice, and above TLS and headers.
func limited(c s3.HTTPClient, up, down int64) s3.HTTPClient {
	if up == 0 && down == 0 {
		return c
	}
	return &limitedClient{client: c, up: limiter(up), down: limiter(down)}
}

// limiter lets bytes through in bursts of a tenth of a second, but not so small that they cost more than they carry.
func limiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(max(bytesPerSecond/10, 4<<10), 1<<20)))
}

type limitedClient struct {
	client   s3.HTTPClient
	up, down *rate.Limiter
}

// Do implements s3.HTTPClient.
func (c *limitedClient) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = &limitedBody{r.Body, r.Context(), c.up}
		if getBody := r.GetBody; getBody != nil {
			r.GetBody = func() (io.ReadCloser, error) {
				body, err := getBody()
				if err != nil {
					return nil, err
				}
				return &limitedBody{body, r.Context(), c.up}, nil
			}
		}
	}
	response, err := c.client.Do(r)
	if err != nil {
		return nil, err
	}
	response.Body = &limitedBody{response.Body, r.Context(), c.down}
	return response, nil
}

type limitedBody struct {
	io.ReadCloser
	ctx     context.Context
	limiter *rate.Limiter
}

// Read waits for what it has read, so that the next bytes come no sooner than they may.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.limiter.Limit() != rate.Inf {
		p = p[:min(len(p), b.limiter.Burst())]
	}
	n, err := b.ReadCloser.Read(p)
	if waitErr := b.limiter.WaitN(b.ctx, n); waitErr != nil {
		return n, waitErr
	}
	return n, err
}

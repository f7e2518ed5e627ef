package lab

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Trouble is how a request to one of the lab's servers goes wrong.
type Trouble int

// Troubles.
const (
	Fine        Trouble = iota
	Unavailable         // the answer is 503
	Hangup              // the connection is closed without an answer
	Silence             // no answer comes, ever
	Held                // no answer comes until Heal
	HalfBody            // the body breaks off in the middle
	HalfSilence         // half of the body comes, then nothing, ever
	BitFlip             // a bit of the body is another
	Gone                // the object is said not to exist
	CutListing          // a listing is said to go on, and not how
)

// Flaky stands before one of the lab's servers for pods and tests alike, and lets requests go wrong as told.
type Flaky struct {
	URL string

	server *http.Server
	mu     sync.Mutex
	fault  func(*http.Request) Trouble
	healed chan struct{}
	hit    int
}

// NewFlaky serves what target serves, at the lab's address, until Close.
func (l *Lab) NewFlaky(ctx context.Context, target string) (*Flaky, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.Address+":0")
	if err != nil {
		return nil, err
	}
	f := &Flaky{URL: "http://" + listener.Addr().String(), healed: make(chan struct{})}
	f.server = &http.Server{Handler: f.troubled(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // S3 requests are signed with the host that the client knows
		},
		FlushInterval:  -1,
		ModifyResponse: spoil,
	})}
	go func() { _ = f.server.Serve(listener) }()
	return f, nil
}

// Close ends the proxy.
func (f *Flaky) Close() error { return f.server.Close() }

// Break lets fault decide from now on how each request goes wrong, one request at a time; nil is no trouble.
func (f *Flaky) Break(fault func(*http.Request) Trouble) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.hit = fault, 0
}

// Heal ends all trouble; requests that are held go on.
func (f *Flaky) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = nil
	close(f.healed)
	f.healed = make(chan struct{})
}

// Hit is how many requests went wrong since Break.
func (f *Flaky) Hit() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit
}

func (f *Flaky) ask(r *http.Request) (Trouble, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault == nil {
		return Fine, f.healed
	}
	trouble := f.fault(r)
	if trouble != Fine {
		f.hit++
	}
	return trouble, f.healed
}

type troubleKey struct{}

func (f *Flaky) troubled(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trouble, healed := f.ask(r)
		switch trouble {
		case Unavailable:
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		case Hangup:
			panic(http.ErrAbortHandler)
		case Silence:
			<-r.Context().Done()
			return
		case Held:
			select {
			case <-healed:
			case <-r.Context().Done():
				return
			}
		case Gone:
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>`)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), troubleKey{}, trouble)))
	})
}

var truncated = regexp.MustCompile(`<IsTruncated>false</IsTruncated>`)

// spoil changes the server's answer.
func spoil(response *http.Response) error {
	ctx := response.Request.Context()
	trouble, _ := ctx.Value(troubleKey{}).(Trouble)
	switch trouble {
	case HalfBody, HalfSilence, BitFlip, CutListing:
	default:
		return nil
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	switch {
	case trouble == BitFlip && len(body) > 0:
		body[len(body)/2] ^= 1
	case trouble == CutListing:
		body = truncated.ReplaceAll(body, []byte(`<IsTruncated>true</IsTruncated>`))
	}
	response.Header.Set("Content-Length", strconv.Itoa(len(body)))
	response.ContentLength = int64(len(body))
	var rest io.Reader = strings.NewReader("")
	switch trouble {
	case HalfBody:
		body = body[:len(body)/2]
	case HalfSilence:
		body, rest = body[:len(body)/2], silence{ctx}
	}
	response.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), rest))
	return nil
}

// silence is a body that gives nothing and does not end.
type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

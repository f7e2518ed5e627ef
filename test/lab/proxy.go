package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Moment is a side of a write.
type Moment int

// Moments.
const (
	// Before: the controller has sent the write, and the API server has not heard of it.
	Before Moment = iota
	// After: the API server has carried the write out, and the controller has not heard of it.
	After
)

// Proxy stands between a controller and the API server. A trap in it acts at an exact moment: before or after a write.
// Those are the worst instants to die at.
type Proxy struct {
	server *http.Server
	url    string
	dir    string

	mu     sync.Mutex
	writes []Write
	trap   func(Write, Moment) bool
	act    func()
	sprung bool
}

// NewProxy serves the cluster's API on a loopback address until Close.
func (c *Cluster) NewProxy(ctx context.Context, dir string) (*Proxy, error) {
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(c.Config)
	config.NextProtos = []string{"http/1.1"} // an exec is an upgrade, which HTTP/2 has not
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{url: "http://" + listener.Addr().String(), dir: dir}
	forward := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: p.afterwards,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, errSprung) {
				panic(http.ErrAbortHandler) // the answer never arrives
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	p.server = &http.Server{Handler: p.remember(forward)}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// Close ends the proxy.
func (p *Proxy) Close() error { return p.server.Close() }

// Kubeconfig writes a kubeconfig for the proxy and returns its path.
func (p *Proxy) Kubeconfig() (string, error) {
	file := filepath.Join(p.dir, "proxy.kubeconfig")
	return file, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"proxy": {Server: p.url}},
		Contexts:       map[string]*clientcmdapi.Context{"proxy": {Cluster: "proxy"}},
		CurrentContext: "proxy",
	}, file)
}

// Trap asks match at both sides of every write, one at a time, and calls act at the first that matches. From then on nothing
// passes until Trap is called again: the API server hears no more of a controller that is being killed.
func (p *Proxy) Trap(match func(Write, Moment) bool, act func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap, p.act, p.sprung = match, act, false
}

// Disarm takes the trap away and says whether it has sprung.
func (p *Proxy) Disarm() (sprung bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = nil
	return p.sprung
}

// Writes are the writes so far that the API server accepted.
func (p *Proxy) Writes() []Write {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Write(nil), p.writes...)
}

// ForgetWrites starts a new count.
func (p *Proxy) ForgetWrites() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = nil
}

var errSprung = errors.New("the trap sprang")

type writeKey struct{}

// remember keeps a write beside its request.
func (p *Proxy) remember(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.dead() {
			panic(http.ErrAbortHandler)
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if write, ok := newWrite(r, body); ok {
				if p.spring(write, Before) {
					panic(http.ErrAbortHandler) // the request never arrives
				}
				r = r.WithContext(context.WithValue(r.Context(), writeKey{}, write))
			}
		}
		next.ServeHTTP(w, r)
	})
}

// afterwards runs when the API server has answered and the controller has not heard it yet.
func (p *Proxy) afterwards(response *http.Response) error {
	write, ok := response.Request.Context().Value(writeKey{}).(Write)
	if !ok || response.StatusCode >= 300 {
		return nil
	}
	if p.spring(write, After) {
		return errSprung
	}
	return nil
}

func (p *Proxy) dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sprung
}

// spring asks the trap, acts, and says whether the request ends here.
func (p *Proxy) spring(write Write, at Moment) bool {
	p.mu.Lock()
	if at == After {
		p.writes = append(p.writes, write)
	}
	springs := !p.sprung && p.trap != nil && p.trap(write, at)
	p.sprung = p.sprung || springs
	ends, act := p.sprung, p.act
	p.mu.Unlock()
	if springs {
		act()
	}
	return ends
}

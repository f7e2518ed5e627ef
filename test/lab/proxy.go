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

// Write is one request that changes something in the cluster.
type Write struct {
	Method, Path string
	Body         []byte
}

// Proxy stands between a controller and the API server. A trap in it acts at an exact moment: after the API server has carried
// out a write, and before the controller hears of it. That is the worst instant to die at.
type Proxy struct {
	server *http.Server
	url    string
	dir    string

	mu     sync.Mutex
	writes []Write
	trap   func(Write) bool
	sprung func()
}

// NewProxy serves the cluster's API on a loopback address until Close.
func (c *Cluster) NewProxy(ctx context.Context, dir string) (*Proxy, error) {
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(c.Config)
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

// Trap calls act once, at the first write that matches.
func (p *Proxy) Trap(match func(Write) bool, act func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap, p.sprung = match, act
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

// remember keeps the body of a write beside its request.
func (p *Proxy) remember(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			r = r.WithContext(context.WithValue(r.Context(), writeKey{}, Write{r.Method, r.URL.Path, body}))
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
	p.mu.Lock()
	p.writes = append(p.writes, write)
	sprung := p.trap != nil && p.trap(write)
	act := p.sprung
	if sprung {
		p.trap = nil
	}
	p.mu.Unlock()
	if !sprung {
		return nil
	}
	act()
	return errSprung
}

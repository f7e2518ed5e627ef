package git

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// TestSSHHangs has servers that accept a connection and, at some stage, say nothing more.
func TestSSHHangs(t *testing.T) {
	host, _ := key(t)
	user, identity := key(t)
	config := &ssh.ServerConfig{NoClientAuth: false, PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(k.Marshal(), user.PublicKey().Marshal()) {
			return nil, errors.New("not allowed")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	hangs := map[string]func(conn net.Conn, reached func()){
		"before it says who it is": func(conn net.Conn, reached func()) {
			reached()
		},
		"before a session": func(conn net.Conn, reached func()) {
			if _, _, requests, err := ssh.NewServerConn(conn, config); err == nil {
				go ssh.DiscardRequests(requests)
			}
			reached()
		},
		"before the command": func(conn net.Conn, reached func()) {
			_, channels, requests, err := ssh.NewServerConn(conn, config)
			if err == nil {
				go ssh.DiscardRequests(requests)
				if c, ok := <-channels; ok {
					_, _, _ = c.Accept()
				}
			}
			reached()
		},
		"before the names": func(conn net.Conn, reached func()) {
			_, channels, requests, err := ssh.NewServerConn(conn, config)
			if err == nil {
				go ssh.DiscardRequests(requests)
				if c, ok := <-channels; ok {
					if _, commands, err := c.Accept(); err == nil {
						_ = (<-commands).Reply(true, nil)
					}
				}
			}
			reached()
		},
	}
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			var listen net.ListenConfig
			l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				defer close(ended)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				watched := &watchedConn{Conn: conn, closed: make(chan struct{})}
				hang(watched, cancel)
				if name == "before it says who it is" {
					_, _ = io.Copy(io.Discard, watched)
				}
				<-watched.closed
			}()
			known := []byte(knownhosts.Line([]string{l.Addr().String()}, host.PublicKey()) + "\n")
			r := open(t, "ssh://git@"+l.Addr().String()+"/shop.git", Options{Auth: Auth{Identity: identity, KnownHosts: known}})
			_, err = r.Resolve(ctx, Ref{Tag: "v1.0.0"}, ".")
			if !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want ErrUnreachable because of the context", err)
			}
			<-ended // the connection is closed, and not only forgotten
		})
	}
	t.Run("time is over", func(t *testing.T) {
		var listen net.ListenConfig
		l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		known := []byte(knownhosts.Line([]string{l.Addr().String()}, host.PublicKey()) + "\n")
		r := open(t, "ssh://git@"+l.Addr().String()+"/shop.git", Options{Auth: Auth{Identity: identity, KnownHosts: known}, Timeout: 20 * time.Millisecond})
		if _, err := r.Resolve(t.Context(), Ref{Tag: "v1.0.0"}, "."); !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrUnreachable because of the time", err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		var listen net.ListenConfig
		l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		_ = l.Close()
		known := []byte(knownhosts.Line([]string{address}, host.PublicKey()) + "\n")
		r := open(t, "ssh://git@"+address+"/shop.git", Options{Auth: Auth{Identity: identity, KnownHosts: known}})
		dial := (*net.OpError)(nil)
		if _, err := r.Resolve(t.Context(), Ref{Tag: "v1.0.0"}, "."); !errors.Is(err, ErrUnreachable) || !errors.As(err, &dial) {
			t.Errorf("got %v, want ErrUnreachable with why", err)
		}
	})
}

// watchedConn tells when the other side has closed it.
type watchedConn struct {
	net.Conn
	closed chan struct{}
	seen   bool
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !c.seen {
		c.seen = true
		close(c.closed)
	}
	return n, err
}

// FuzzGreet gives the tunnel what no client of it would say.
func FuzzGreet(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x0bexample.com\x00\x16"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x16"))
	f.Add([]byte("\x04\x01\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		address, err := greet(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(said), io.Discard})
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(address); err != nil && !bytes.ContainsAny(said, "[]:%") {
			t.Errorf("%q gives the address %q: %v", said, address, err)
		}
	})
}

func TestGreet(t *testing.T) {
	for said, want := range map[string]string{
		"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16":                                                 "127.0.0.1:22",
		"\x05\x02\x00\x02\x05\x01\x00\x03\x0bexample.com\x08\xae":                                              "example.com:2222",
		"\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x16": "[::1]:22",
		"\x04\x01\x00": "", "\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x16": "", "\x05\x01\x00\x05\x01\x00\x07": "", "\x05": "",
		"\x05\x01\x00\x05\x01\x00\x03\x0bexample": "",
	} {
		var answered bytes.Buffer
		got, err := greet(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader([]byte(said)), &answered})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", said, got, err, want)
		}
		if want != "" && answered.String() != "\x05\x00" {
			t.Errorf("%q: answered %q", said, answered.String())
		}
	}
}

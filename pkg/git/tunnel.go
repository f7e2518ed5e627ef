package git

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/net/proxy"
)

// tunnel carries connections of go-git's SSH client, which knows no context: a server that accepts a connection and then says
// nothing would keep it for ever. It poses as a SOCKS proxy on this machine, makes the connections itself, and cuts them when
// the context ends.
type tunnel struct {
	ctx      context.Context
	cancel   context.CancelFunc
	listener net.Listener
	running  sync.WaitGroup
	mu       sync.Mutex
	// failure is why the server was not reached, to be read after close.
	failure error
}

// openTunnel begins to listen. Close must be called.
func openTunnel(ctx context.Context) (*tunnel, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("preparing to connect: %w", err)
	}
	t := &tunnel{listener: l}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.running.Go(t.accept)
	return t, nil
}

// url is where the tunnel takes connections.
func (t *tunnel) url() string { return "socks5://" + t.listener.Addr().String() }

// close cuts all connections and waits until nothing runs any more.
func (t *tunnel) close() {
	t.cancel()
	_ = t.listener.Close()
	t.running.Wait()
}

func (t *tunnel) accept() {
	stop := context.AfterFunc(t.ctx, func() { _ = t.listener.Close() })
	defer stop()
	for {
		near, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.running.Go(func() { t.carry(near) })
	}
}

// carry copies between the client and the server it asks for, until one of them ends the connection or the context does.
func (t *tunnel) carry(near net.Conn) {
	defer func() { _ = near.Close() }()
	stop := context.AfterFunc(t.ctx, func() { _ = near.Close() })
	defer stop()
	address, err := greet(near)
	if err != nil {
		return
	}
	far, err := proxy.Dial(t.ctx, "tcp", address)
	if err != nil {
		t.mu.Lock()
		t.failure = err // SOCKS has no words for it
		t.mu.Unlock()
		_, _ = near.Write(socksReply(socksUnreachable))
		return
	}
	defer func() { _ = far.Close() }()
	stopFar := context.AfterFunc(t.ctx, func() { _ = far.Close() })
	defer stopFar()
	if _, err := near.Write(socksReply(socksDone)); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	_, _ = io.Copy(far, near)
	_ = far.Close()
	back.Wait()
}

// What of SOCKS (RFC 1928) is spoken: version 5, no authentication, connect.
const (
	socksVersion, socksConnect   = 5, 1
	socksIPv4, socksName         = 1, 3
	socksIPv6                    = 4
	socksDone, socksUnreachable  = 0, 4
	socksNoAuthentication, unset = 0, 0
)

func socksReply(code byte) []byte {
	return []byte{socksVersion, code, unset, socksIPv4, unset, unset, unset, unset, unset, unset}
}

// greet reads what a SOCKS client says at first, and returns the address that it wants.
func greet(c io.ReadWriter) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		return "", err
	}
	if head[0] != socksVersion {
		return "", errors.New("not SOCKS 5")
	}
	if _, err := io.CopyN(io.Discard, c, int64(head[1])); err != nil { // ways to authenticate
		return "", err
	}
	if _, err := c.Write([]byte{socksVersion, socksNoAuthentication}); err != nil {
		return "", err
	}
	request := make([]byte, 4)
	if _, err := io.ReadFull(c, request); err != nil {
		return "", err
	}
	if request[0] != socksVersion || request[1] != socksConnect {
		return "", errors.New("not a SOCKS connection")
	}
	length := make([]byte, 1)
	switch request[3] {
	case socksIPv4:
		length[0] = net.IPv4len
	case socksIPv6:
		length[0] = net.IPv6len
	case socksName:
		if _, err := io.ReadFull(c, length); err != nil {
			return "", err
		}
	default:
		return "", errors.New("not a SOCKS address")
	}
	address := make([]byte, int(length[0])+2)
	if _, err := io.ReadFull(c, address); err != nil {
		return "", err
	}
	host := string(address[:length[0]])
	if request[3] != socksName {
		host = net.IP(address[:length[0]]).String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(address[length[0]:])))), nil
}

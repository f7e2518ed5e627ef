package git

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// key makes a key pair for a user or a server.
func key(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// serveSSH answers git-upload-pack for one repository to the user "git" with one key, and gives its address.
func serveSSH(t *testing.T, bare string, host ssh.Signer, user ssh.PublicKey) net.Addr {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "git" || string(k.Marshal()) != string(user.Marshal()) {
			return nil, errors.New("not allowed")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveConn(t, conn, config, bare)
		}
	}()
	return l.Addr()
}

func serveConn(t *testing.T, conn net.Conn, config *ssh.ServerConfig, bare string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			var command struct{ Line string }
			if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil || !strings.HasPrefix(command.Line, "git-upload-pack ") {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			cmd := exec.CommandContext(t.Context(), "git", "upload-pack", bare)
			cmd.Stdin, cmd.Stdout = channel, channel
			status := struct{ Code uint32 }{}
			if cmd.Run() != nil {
				status.Code = 1
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
			_ = channel.Close()
		}
	}
}

func TestSSH(t *testing.T) {
	w, v1, _ := shop(t)
	host, _ := key(t)
	other, otherIdentity := key(t)
	user, identity := key(t)
	address := serveSSH(t, serve(t, w).bare, host, user.PublicKey()).String()
	known := []byte(knownhosts.Line([]string{address}, host.PublicKey()) + "\n")
	impostor := []byte(knownhosts.Line([]string{address}, other.PublicKey()) + "\n")
	for name, c := range map[string]struct {
		auth Auth
		ok   bool
	}{
		"known":                   {Auth{Identity: identity, KnownHosts: known}, true},
		"another key of the user": {Auth{Identity: otherIdentity, KnownHosts: known}, false},
		"another server":          {Auth{Identity: identity, KnownHosts: impostor}, false},
		"an unknown server":       {Auth{Identity: identity, KnownHosts: []byte("# none\n")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, "ssh://git@"+address+"/shop.git", Options{Auth: c.auth})
			for _, ref := range []Ref{{Tag: "v1.0.0"}, {Commit: v1}} {
				got, err := r.Resolve(t.Context(), ref, "deploy")
				if c.ok && (err != nil || got.Commit != v1) {
					t.Errorf("%s: got %+v, %v", ref, got, err)
				}
				if !c.ok && !errors.Is(err, ErrUnreachable) {
					t.Errorf("%s: got error %v, want ErrUnreachable", ref, err)
				}
			}
		})
	}
}

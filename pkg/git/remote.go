package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const (
	// largeObject is the size in bytes from which on an object is streamed instead of held in memory.
	largeObject = 16 << 20
	// cacheSize bounds the objects kept in memory.
	cacheSize = 32 * cache.MiByte
	sshPort   = "22"
)

var (
	// errNoSuchRef: the repository answered, and the name is not among its own.
	errNoSuchRef = errors.New("no such ref")
	errTooLarge  = errors.New("more is sent than the limit allows")
)

// remote is how to reach a repository, and where what is fetched is kept.
type remote struct {
	url     string
	ssh     bool
	auth    transport.AuthMethod
	ca      []byte
	timeout time.Duration
	dir     string
	// whole is set when everything has been fetched.
	whole bool
}

func newRemote(location string, o Options) (_ *remote, err error) {
	dir, err := os.MkdirTemp("", "lockstep-git-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	r := &remote{ca: o.Auth.CA, timeout: cmp.Or(o.Timeout, 5*time.Minute), dir: dir}
	endpoint, err := transport.NewEndpoint(location)
	if err != nil {
		return nil, errors.New("not the URL of a repository") // the cause would repeat the URL with its credentials
	}
	switch endpoint.Protocol {
	case "http", "https":
		r.auth = httpAuth(endpoint, o.Auth)
		endpoint.User, endpoint.Password = "", "" // so that no error can show them
	case "ssh":
		r.ssh = true
		r.auth, err = sshAuth(endpoint, o.Auth, dir)
		endpoint.Password = ""
	default:
		err = fmt.Errorf("%q is none of https, http and ssh", endpoint.Protocol)
	}
	r.url = endpoint.String()
	return r, err
}

func httpAuth(endpoint *transport.Endpoint, a Auth) transport.AuthMethod {
	switch {
	case a.BearerToken != "":
		return &http.TokenAuth{Token: a.BearerToken}
	case a.Username != "" || a.Password != "":
		return &http.BasicAuth{Username: a.Username, Password: a.Password}
	case endpoint.User != "":
		return &http.BasicAuth{Username: endpoint.User, Password: endpoint.Password}
	}
	return nil
}

// sshAuth is nil without an identity: go-git then asks the user's agent and known hosts.
func sshAuth(endpoint *transport.Endpoint, a Auth, dir string) (transport.AuthMethod, error) {
	if len(a.Identity) == 0 {
		return nil, nil
	}
	if len(a.KnownHosts) == 0 {
		return nil, errors.New("an SSH identity needs known_hosts: without them anybody could pose as the server")
	}
	keys, err := ssh.NewPublicKeys(cmp.Or(endpoint.User, a.Username, ssh.DefaultUsername), a.Identity, a.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("reading the SSH identity: %w", err)
	}
	file := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(file, a.KnownHosts, 0o600); err != nil {
		return nil, err
	}
	known, err := ssh.NewKnownHostsDb(file)
	if err != nil {
		return nil, fmt.Errorf("reading known_hosts: %w", err)
	}
	port := sshPort
	if endpoint.Port > 0 {
		port = fmt.Sprint(endpoint.Port)
	}
	keys.HostKeyCallback = known.HostKeyCallback()
	// Ask the server for a key of a kind that is known; it might otherwise show another of its keys.
	keys.HostKeyAlgorithms = known.HostKeyAlgorithms(endpoint.Host + ":" + port)
	return keys, nil
}

// fetch brings what specs name, with as many commits of history as depth says, 0 for all.
func (r *Repository) fetch(ctx context.Context, depth int, specs ...config.RefSpec) error {
	if r.store == nil {
		r.store = r.newStore("shallow")
	}
	if r.remote.whole {
		depth = 0 // or what is whole would become shallow
	}
	return r.ask(ctx, func(ctx context.Context, via transport.ProxyOptions) error {
		return r.connection().FetchContext(ctx, &git.FetchOptions{
			RefSpecs: specs, Depth: depth, Tags: git.NoTags, Force: true, Auth: r.remote.auth, CABundle: r.remote.ca, ProxyOptions: via,
		})
	})
}

// ask lets do speak with the repository, until it is done, the time for a request is over, or the context ends.
func (r *Repository) ask(ctx context.Context, do func(context.Context, transport.ProxyOptions) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.remote.timeout)
	defer cancel()
	if !r.remote.ssh {
		return explain(do(ctx, transport.ProxyOptions{}))
	}
	t, err := openTunnel(ctx)
	if err != nil {
		return explain(err)
	}
	err = do(ctx, transport.ProxyOptions{URL: t.url()})
	t.close()
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case t.failure != nil:
		err = t.failure
	}
	return explain(err)
}

// fetchAll brings all branches and tags with their history, into a store of its own: go-git does not reliably
// complete one that began shallow.
func (r *Repository) fetchAll(ctx context.Context) error {
	if r.remote.whole {
		return nil
	}
	before := r.store
	r.store = r.newStore("whole")
	err := r.fetch(ctx, 0, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	if errors.Is(err, errNoSuchRef) {
		err = nil // an empty repository
	}
	if err == nil {
		err = r.complete(ctx)
	}
	if err != nil {
		r.store = before
		return errors.Join(err, os.RemoveAll(filepath.Join(r.remote.dir, "whole")))
	}
	r.remote.whole = true
	return nil
}

// complete checks that every branch and tag of the repository came with its object: go-git takes an empty answer for "up to date".
func (r *Repository) complete(ctx context.Context) error {
	refs, err := r.list(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if (ref.Name().IsBranch() || ref.Name().IsTag()) && !r.has(ref.Hash()) {
			return fmt.Errorf("%w: %s was not sent", ErrUnreachable, ref.Name())
		}
	}
	return nil
}

// list gives all names of the repository.
func (r *Repository) list(ctx context.Context) ([]*plumbing.Reference, error) {
	if r.remote == nil {
		iter, err := r.store.IterReferences()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		var refs []*plumbing.Reference
		err = iter.ForEach(func(ref *plumbing.Reference) error {
			refs = append(refs, ref)
			return nil
		})
		return refs, err
	}
	var refs []*plumbing.Reference
	err := r.ask(ctx, func(ctx context.Context, via transport.ProxyOptions) (err error) {
		refs, err = r.connection().ListContext(ctx, &git.ListOptions{Auth: r.remote.auth, CABundle: r.remote.ca, ProxyOptions: via})
		return err
	})
	if errors.Is(err, errNoSuchRef) {
		return nil, nil
	}
	return refs, err
}

// absent is the proof that a name is not in the repository, with those that look most like it.
func (r *Repository) absent(ctx context.Context, name plumbing.ReferenceName) error {
	refs, err := r.list(ctx)
	if err != nil {
		return err
	}
	var same, other []string
	for _, ref := range refs {
		switch n := ref.Name(); {
		case n == name:
			return fmt.Errorf("%w: the repository changed meanwhile: try again", ErrUnreachable)
		case n.IsTag() && name.IsTag(), n.IsBranch() && name.IsBranch():
			same = append(same, n.Short())
		case n.Short() == name.Short():
			other = append(other, n.String())
		}
	}
	message := ""
	if near := nearest(name.Short(), same); len(near) > 0 {
		message = "; nearest: " + strings.Join(near, ", ")
	}
	if slices.Sort(other); len(other) > 0 {
		message += "; there is " + strings.Join(other, ", ")
	}
	return fmt.Errorf("%w%s", ErrRefNotFound, message)
}

func (r *Repository) connection() *git.Remote {
	return git.NewRemote(r.store, &config.RemoteConfig{Name: "origin", URLs: []string{r.remote.url}})
}

func (r *Repository) newStore(name string) *storage {
	fs := &limitedFS{Filesystem: osfs.New(filepath.Join(r.remote.dir, name)), left: new(atomic.Int64)}
	fs.left.Store(r.limits.fetch)
	return newStorage(fs, cacheSize, filesystem.Options{
		LargeObjectThreshold: largeObject,
	})
}

// explain sorts what go-git answers: nil, errNoSuchRef, ErrUnsafe, ErrUnsupported, and all else ErrUnreachable.
func explain(err error) error {
	var noMatch git.NoMatchingRefSpecError
	var rejected *url.Error
	var unexpected *packp.ErrUnexpectedData
	switch {
	case err == nil, errors.Is(err, git.NoErrAlreadyUpToDate):
		return nil
	case errors.As(err, &noMatch), errors.Is(err, transport.ErrEmptyRemoteRepository):
		return errNoSuchRef
	case errors.As(err, &unexpected) && bytes.Contains(unexpected.Data, []byte("object-format=sha256")):
		return errSHA256
	case errors.Is(err, errTooLarge):
		return fmt.Errorf("%w: %w", ErrUnsafe, errTooLarge)
	case errors.Is(err, transport.ErrAuthenticationRequired):
		return fmt.Errorf("%w: the server wants credentials: %w", ErrUnreachable, err)
	case errors.Is(err, transport.ErrAuthorizationFailed):
		return fmt.Errorf("%w: the server refuses these credentials: %w", ErrUnreachable, err)
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fmt.Errorf("%w: the server shows no such repository; a private one is hidden from those without credentials: %w", ErrUnreachable, err)
	case errors.As(err, &rejected):
		return fmt.Errorf("%w: %w", ErrUnreachable, rejected.Err)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// limitedFS stops writing when the limit is reached, so that a hostile or mistaken repository cannot fill the disk.
type limitedFS struct {
	billy.Filesystem
	left *atomic.Int64
}

func (fs *limitedFS) Create(name string) (billy.File, error) {
	return fs.wrap(fs.Filesystem.Create(name))
}

func (fs *limitedFS) OpenFile(name string, flag int, perm os.FileMode) (billy.File, error) {
	return fs.wrap(fs.Filesystem.OpenFile(name, flag, perm))
}

func (fs *limitedFS) TempFile(dir, prefix string) (billy.File, error) {
	return fs.wrap(fs.Filesystem.TempFile(dir, prefix))
}

func (fs *limitedFS) wrap(f billy.File, err error) (billy.File, error) {
	if err != nil {
		return nil, err
	}
	return &limitedFile{File: f, left: fs.left}, nil
}

type limitedFile struct {
	billy.File
	left *atomic.Int64
}

func (f *limitedFile) Write(p []byte) (int, error) {
	if f.left.Add(-int64(len(p))) < 0 {
		return 0, errTooLarge
	}
	return f.File.Write(p)
}

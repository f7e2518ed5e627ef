// Package git asks Git repositories, remote or local, which commit a name means, what tree a path has in it, and
// writes that commit's files into a directory.
package git

import (
	"context"
	"errors"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// What Git can answer. Everything that is not a proof is ErrUnreachable: no answer must never look like "there is none".
var (
	// ErrUnreachable: the repository could not be asked: network, credentials, host key, a response cut short.
	ErrUnreachable = errors.New("repository could not be read")
	// ErrRefNotFound: proven absent: the repository was asked and has no such tag, branch or commit.
	ErrRefNotFound = errors.New("not in the repository")
	// ErrAmbiguous: a short commit name fits several commits.
	ErrAmbiguous = errors.New("ambiguous commit")
	// ErrPathNotFound: the commit has no directory at the path.
	ErrPathNotFound = errors.New("path not in the commit")
	// ErrUnsafe: the commit's files cannot be written faithfully and safely: a link out of the repository, a submodule
	// inside the path, or more than the limits allow.
	ErrUnsafe = errors.New("commit cannot be written out")
)

// Auth is what a repository asks for. The zero value uses nothing for HTTP, and for SSH the agent and the
// known hosts of the user.
type Auth struct {
	// Username and Password are for HTTP basic authentication.
	Username, Password string
	// BearerToken is for HTTP; it wins over Username and Password.
	BearerToken string
	// Identity is an SSH private key (PEM), Passphrase opens it, KnownHosts lists the keys of the server in OpenSSH's format.
	// An identity without known hosts is refused.
	Identity, KnownHosts []byte
	Passphrase           string
	// CA holds certificates (PEM) to trust beside those of the system.
	CA []byte
}

// Ref names a commit in exactly one way.
type Ref struct {
	Tag, Branch string
	// Commit is a full object name, or at least 7 digits of one.
	Commit string
}

// Options of Open.
type Options struct {
	Auth Auth
	// MaxFetch bounds the bytes kept on disk of what is fetched, MaxTree the bytes and MaxFiles the number of files that
	// Materialise writes. Zero means the defaults: 2 GiB, 1 GiB, 200 000.
	MaxFetch, MaxTree int64
	MaxFiles          int
}

// Repository is an open repository.
type Repository struct{}

// Open prepares to read a repository: a URL, which is not asked yet, or a directory inside a local work tree or a bare
// repository, which is read in place and never changed. Close must be called.
func Open(ctx context.Context, location string, o Options) (*Repository, error) {
	return nil, errors.ErrUnsupported
}

// Resolve finds the commit that ref means now, and the tree of path in it.
func (r *Repository) Resolve(ctx context.Context, ref Ref, path string) (v1alpha1.Revision, error) {
	return v1alpha1.Revision{}, errors.ErrUnsupported
}

// Materialise writes all files of the revision's commit into the empty directory dir; what a kustomization at
// the revision's path refers to elsewhere in the repository is there, too.
func (r *Repository) Materialise(ctx context.Context, rev v1alpha1.Revision, dir string) error {
	return errors.ErrUnsupported
}

// URL is what a Revision of this repository records, without credentials.
func (r *Repository) URL() string { return "" }

// Close removes what was fetched.
func (r *Repository) Close() error { return nil }

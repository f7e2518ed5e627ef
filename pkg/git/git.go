// Package git asks Git repositories, remote or local, which commit a name means, what tree a path has in it, and
// writes that commit's files into a directory.
package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

const (
	// minPrefix is the shortest commit name that is accepted, hashLength that of a full SHA-1 name.
	minPrefix, hashLength = 7, 40
	// maxPacks are as many packs as stay open: opening one takes longer than reading a file out of it.
	maxPacks = 16
	// maxTagDepth bounds tags of tags.
	maxTagDepth = 10
)

// What Git can answer. Everything that is not a proof is ErrUnreachable: no answer must never look like "there is none".
var (
	// ErrUnreachable: the repository could not be asked: network, credentials, host key, a response cut short.
	ErrUnreachable = errors.New("repository could not be read")
	// ErrRefNotFound: proven absent: the repository was asked and has no such tag, branch or commit.
	ErrRefNotFound = errors.New("not in the repository")
	// ErrAmbiguous: a short commit name fits several commits.
	ErrAmbiguous = errors.New("ambiguous commit")
	// ErrUnsupported: the repository is of a kind that cannot be read yet, or a commit's name is of one. Nothing is proven.
	ErrUnsupported = errors.New("not supported yet")
	// ErrPathNotFound: the commit has no directory at the path.
	ErrPathNotFound = errors.New("path not in the commit")
	// ErrUnsafe: the commit's files cannot be written faithfully and safely: a link out of the repository, a submodule
	// inside the path, or more than the limits allow.
	ErrUnsafe = errors.New("commit cannot be written out")
)

var errSHA256 = fmt.Errorf("repositories with SHA-256 object names: %w", ErrUnsupported)

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
	// Head is what a local repository has checked out.
	Head bool
}

// Options of Open.
type Options struct {
	Auth Auth
	// MaxFetch bounds the bytes kept on disk of what is fetched, MaxTree the bytes and MaxFiles the number of files that
	// Materialise writes. Zero means the defaults: 2 GiB, 1 GiB, 200 000.
	MaxFetch, MaxTree int64
	MaxFiles          int
	// Timeout bounds each request to a remote repository beside the context; zero means 5 minutes.
	Timeout time.Duration
}

// Repository is an open repository. It is not safe for concurrent use, but the Files of its commits are, beside one another and beside it.
type Repository struct {
	url      string
	store    *storage
	remote   *remote // nil for a local repository
	workTree string
	// borrows says that a local repository takes objects from another one, as after git clone --shared.
	borrows bool
	limits  limits
	// trees are directories that were read, with their entries in the order of their names: of two commits most are the same.
	trees map[plumbing.Hash][]object.TreeEntry
	// quiet are the files and directories of which nothing refers to others, with the bytes that were looked through.
	quiet map[plumbing.Hash]int64
	// orders are those of the files and directories that were looked at for them.
	orders map[plumbing.Hash]*orders
}

type limits struct {
	fetch, tree int64
	files       int
	// scanned and ordered are maxScanned and maxOrdered.
	scanned, ordered int64
}

// Open prepares to read a repository: a URL, which is not asked yet, or a directory inside a local work tree or a bare
// repository, which is read in place and never changed. Close must be called.
func Open(location string, o Options) (*Repository, error) {
	r := &Repository{trees: map[plumbing.Hash][]object.TreeEntry{}, limits: limits{
		fetch: cmp.Or(o.MaxFetch, 2<<30), tree: cmp.Or(o.MaxTree, 1<<30), files: cmp.Or(o.MaxFiles, 200_000),
		scanned: maxScanned, ordered: maxOrdered,
	}}
	if dir, ok := localPath(location); ok {
		return r, r.openLocal(dir)
	}
	r.url = revision.StripCredentials(location)
	var err error
	r.remote, err = newRemote(location, o)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", r.url, err)
	}
	return r, nil
}

// localPath says whether location is a directory of this machine.
func localPath(location string) (string, bool) {
	if dir, ok := strings.CutPrefix(location, "file://"); ok {
		return filepath.FromSlash(dir), true
	}
	if strings.Contains(location, "://") {
		return "", false
	}
	_, err := os.Stat(location)
	return location, err == nil || !strings.Contains(location, ":")
}

func (r *Repository) openLocal(dir string) error {
	repo, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repo, err = git.PlainOpen(dir) // a bare one
	}
	if errors.Is(err, git.ErrUnknownExtension) && strings.Contains(err.Error(), "objectformat") {
		return fmt.Errorf("opening %q: %w", dir, errSHA256)
	}
	if err != nil {
		return fmt.Errorf("opening %q: %w: %w", dir, ErrUnreachable, err)
	}
	store, ok := repo.Storer.(*filesystem.Storage)
	if !ok {
		return fmt.Errorf("opening %q: %w: not on a filesystem", dir, ErrUnreachable)
	}
	r.store = newStorage(store.Filesystem(), cache.DefaultMaxSize, filesystem.Options{
		MaxOpenDescriptors: maxPacks, AlternatesFS: osfs.New("/"), // by absolute paths, as git clone --shared notes them
	})
	_, err = store.Filesystem().Stat("objects/info/alternates")
	r.borrows = err == nil
	if w, err := repo.Worktree(); err == nil {
		dir = w.Filesystem.Root()
		r.workTree = dir
	}
	if origin, err := repo.Remote("origin"); err == nil && len(origin.Config().URLs) > 0 {
		r.url = revision.StripCredentials(origin.Config().URLs[0])
		return nil
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("opening %q: %w", dir, err)
	}
	r.url = "file://" + filepath.ToSlash(absolute)
	return nil
}

// URL is what a Revision of this repository records, without credentials: of a local repository that of its remote
// "origin", or its own path if it has none.
func (r *Repository) URL() string { return r.url }

// Close ends the reading, and removes what was fetched.
func (r *Repository) Close() error {
	if r.remote == nil {
		return r.store.Close()
	}
	return os.RemoveAll(r.remote.dir)
}

// Resolve finds the commit that ref means now, and the tree of path in it, as of v1alpha1.Revision.
func (r *Repository) Resolve(ctx context.Context, ref Ref, path string) (v1alpha1.Revision, error) {
	path, err := cleanPath(path)
	if err != nil {
		return v1alpha1.Revision{}, err
	}
	hash, err := r.find(ctx, ref)
	if err != nil {
		return v1alpha1.Revision{}, fmt.Errorf("finding %s in %q: %w", ref, r.url, err)
	}
	commit, err := r.peel(hash)
	if err != nil {
		return v1alpha1.Revision{}, fmt.Errorf("finding %s in %q: %w", ref, r.url, err)
	}
	tree, err := r.deployed(ctx, commit, path)
	if err != nil {
		return v1alpha1.Revision{}, fmt.Errorf("finding path %q at commit %s of %q: %w", path, revision.Short(commit.Hash.String()), r.url, err)
	}
	return v1alpha1.Revision{
		Repository: r.url, Ref: cmp.Or(ref.Tag, ref.Branch), Commit: commit.Hash.String(), Path: path, Tree: tree.String(),
	}, nil
}

// String says in words which commit is meant.
func (r Ref) String() string {
	switch {
	case r.Tag != "":
		return fmt.Sprintf("tag %q", r.Tag)
	case r.Branch != "":
		return fmt.Sprintf("branch %q", r.Branch)
	case r.Head:
		return "HEAD"
	}
	return fmt.Sprintf("commit %q", r.Commit)
}

func (r Ref) validate() error {
	given := 0
	for _, s := range []string{r.Tag, r.Branch, r.Commit} {
		if s != "" {
			given++
		}
	}
	if r.Head {
		given++
	}
	if given != 1 {
		return errors.New("a commit is named in exactly one way: by tag, branch, commit or as HEAD")
	}
	if r.Commit != "" && (len(r.Commit) < minPrefix || !revision.IsHex(r.Commit) || len(r.Commit) > 64) {
		return fmt.Errorf("a commit name is %d to 64 lower-case hexadecimal digits", minPrefix)
	}
	return nil
}

// cleanPath gives a path the one form that is recorded: relative, slashes, "." for the root.
func cleanPath(p string) (string, error) {
	clean := path.Clean(cmp.Or(p, "."))
	if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("path %q leaves the repository", p)
	}
	return clean, nil
}

// Package git asks Git repositories, remote or local, which commit a name means, what tree a path has in it, and
// writes that commit's files into a directory.
package git

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

const (
	// minPrefix is the shortest commit name that is accepted, hashLength that of a full SHA-1 name.
	minPrefix, hashLength = 7, 40
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
	// Timeout bounds each request to a remote repository beside the context; zero means 5 minutes.
	Timeout time.Duration
}

// Repository is an open repository. It is not safe for concurrent use.
type Repository struct {
	url    string
	store  *filesystem.Storage
	remote *remote // nil for a local repository
	limits limits
}

type limits struct {
	fetch, tree int64
	files       int
}

// Open prepares to read a repository: a URL, which is not asked yet, or a directory inside a local work tree or a bare
// repository, which is read in place and never changed. Close must be called.
func Open(location string, o Options) (*Repository, error) {
	r := &Repository{limits: limits{
		fetch: cmp.Or(o.MaxFetch, 2<<30), tree: cmp.Or(o.MaxTree, 1<<30), files: cmp.Or(o.MaxFiles, 200_000),
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
	if err != nil {
		return fmt.Errorf("opening %q: %w: %w", dir, ErrUnreachable, err)
	}
	store, ok := repo.Storer.(*filesystem.Storage)
	if !ok {
		return fmt.Errorf("opening %q: %w: not on a filesystem", dir, ErrUnreachable)
	}
	r.store = store
	if w, err := repo.Worktree(); err == nil {
		dir = w.Filesystem.Root()
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

// Close removes what was fetched.
func (r *Repository) Close() error {
	if r.remote == nil {
		return nil
	}
	return os.RemoveAll(r.remote.dir)
}

// Resolve finds the commit that ref means now, and the tree of path in it.
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
	tree, err := r.treeAt(commit, path)
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
	if given != 1 {
		return errors.New("a commit is named in exactly one way: by tag, branch or commit")
	}
	if r.Commit != "" && (len(r.Commit) < minPrefix || !revision.IsHex(r.Commit) || len(r.Commit) > 64) {
		return fmt.Errorf("a commit name is %d to 64 lower-case hexadecimal digits", minPrefix)
	}
	return nil
}

// find gives the object that ref means, having fetched it.
func (r *Repository) find(ctx context.Context, ref Ref) (plumbing.Hash, error) {
	if err := ref.validate(); err != nil {
		return plumbing.ZeroHash, err
	}
	switch {
	case ref.Tag != "":
		return r.findName(ctx, plumbing.NewTagReferenceName(ref.Tag))
	case ref.Branch != "":
		return r.findName(ctx, plumbing.NewBranchReferenceName(ref.Branch))
	case len(ref.Commit) == hashLength:
		return plumbing.NewHash(ref.Commit), r.ensure(ctx, plumbing.NewHash(ref.Commit))
	case len(ref.Commit) > hashLength:
		return plumbing.ZeroHash, fmt.Errorf("%w: repositories with SHA-256 names cannot be read yet", ErrUnreachable)
	}
	return r.findPrefix(ctx, ref.Commit)
}

func (r *Repository) findName(ctx context.Context, name plumbing.ReferenceName) (plumbing.Hash, error) {
	if r.remote != nil {
		err := r.fetch(ctx, 1, config.RefSpec("+"+name+":"+name))
		if errors.Is(err, errNoSuchRef) {
			return plumbing.ZeroHash, r.absent(ctx, name)
		}
		if err != nil {
			return plumbing.ZeroHash, err
		}
	}
	ref, err := storer.ResolveReference(r.store, name)
	if errors.Is(err, plumbing.ErrReferenceNotFound) && name.IsBranch() && r.remote == nil {
		ref, err = storer.ResolveReference(r.store, plumbing.NewRemoteReferenceName("origin", name.Short()))
	}
	if errors.Is(err, plumbing.ErrReferenceNotFound) && r.remote == nil {
		return plumbing.ZeroHash, r.absent(ctx, name)
	}
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return ref.Hash(), nil
}

// ensure makes the object with a full name available.
func (r *Repository) ensure(ctx context.Context, hash plumbing.Hash) error {
	if r.has(hash) {
		return nil
	}
	if r.remote != nil {
		// Many servers give any commit by its name, also one that a force-push has cut off. Whatever they say to that is no
		// proof; only the whole repository is.
		if err := r.fetch(ctx, 1, config.RefSpec(hash.String()+":refs/lockstep/"+hash.String())); err == nil && r.has(hash) {
			return nil
		}
		if err := r.fetchAll(ctx); err != nil {
			return err
		}
	}
	if r.has(hash) {
		return nil
	}
	return r.noCommit()
}

func (r *Repository) findPrefix(ctx context.Context, prefix string) (plumbing.Hash, error) {
	if r.remote != nil {
		if err := r.fetchAll(ctx); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	digits, err := hex.DecodeString(prefix[:len(prefix)/2*2])
	if err != nil {
		return plumbing.ZeroHash, err
	}
	hashes, err := r.store.HashesWithPrefix(digits)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	var commits []string
	for _, h := range hashes {
		if !strings.HasPrefix(h.String(), prefix) {
			continue
		}
		if _, err := object.GetCommit(r.store, h); err == nil {
			commits = append(commits, h.String())
		}
	}
	slices.Sort(commits)
	switch commits = slices.Compact(commits); len(commits) {
	case 0:
		return plumbing.ZeroHash, r.noCommit()
	case 1:
		return plumbing.NewHash(commits[0]), nil
	}
	return plumbing.ZeroHash, fmt.Errorf("%w: it fits %s", ErrAmbiguous, strings.Join(commits, ", "))
}

// noCommit is the proof that a commit is absent, if what is here is everything.
func (r *Repository) noCommit() error {
	if shallow, err := r.store.Shallow(); err != nil || len(shallow) > 0 {
		return fmt.Errorf("%w: the local clone is shallow and may lack it: run git fetch --unshallow, or give the URL", ErrUnreachable)
	}
	return fmt.Errorf("%w: no branch or tag leads to it", ErrRefNotFound)
}

func (r *Repository) has(hash plumbing.Hash) bool {
	return r.store != nil && r.store.HasEncodedObject(hash) == nil
}

// peel follows annotated tags to the commit.
func (r *Repository) peel(hash plumbing.Hash) (*object.Commit, error) {
	for range maxTagDepth {
		o, err := object.GetObject(r.store, hash)
		if err != nil {
			return nil, fmt.Errorf("%w: reading object %s: %w", ErrUnreachable, hash, err)
		}
		switch o := o.(type) {
		case *object.Commit:
			return o, nil
		case *object.Tag:
			hash = o.Target
		default:
			return nil, fmt.Errorf("%w: it names a %s, not a commit", ErrRefNotFound, o.Type())
		}
	}
	return nil, fmt.Errorf("%w: tags of tags without end", ErrRefNotFound)
}

// treeAt is the name of the tree at a clean path.
func (r *Repository) treeAt(commit *object.Commit, path string) (plumbing.Hash, error) {
	if path == "." {
		return commit.TreeHash, nil
	}
	tree, err := commit.Tree()
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	entry, err := tree.FindEntry(path)
	switch {
	case errors.Is(err, object.ErrEntryNotFound), errors.Is(err, object.ErrDirectoryNotFound):
		return plumbing.ZeroHash, fmt.Errorf("%w%s", ErrPathNotFound, neighbours(tree, path))
	case err != nil:
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	case entry.Mode != filemode.Dir:
		return plumbing.ZeroHash, fmt.Errorf("%w: it is not a directory", ErrPathNotFound)
	}
	return entry.Hash, nil
}

// cleanPath gives a path the one form that is recorded: relative, slashes, "." for the root.
func cleanPath(p string) (string, error) {
	clean := path.Clean(cmp.Or(p, "."))
	if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("path %q leaves the repository", p)
	}
	return clean, nil
}

package git

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// ErrTagged says that there is a tag of that name, and it leads to another commit.
var ErrTagged = errors.New("the tag exists already")

// PushTag makes an annotated tag of a commit in a remote repository, and says whether it was not there. A tag is never moved: one of
// the name that leads to another commit is ErrTagged. The commit must be one that a branch or a tag leads to, so that nothing but the
// tag is sent.
func (r *Repository) PushTag(ctx context.Context, name, commit, message string, by object.Signature) (bool, error) {
	made, err := r.pushTag(ctx, name, commit, message, by)
	if err != nil {
		return false, fmt.Errorf("making tag %q in %q: %w", name, r.url, err)
	}
	return made, nil
}

func (r *Repository) pushTag(ctx context.Context, name, commit, message string, by object.Signature) (bool, error) {
	if r.remote == nil {
		return false, errors.New("a local repository is never changed: give its URL")
	}
	full := plumbing.NewTagReferenceName(name)
	if err := full.Validate(); err != nil {
		return false, err
	}
	if err := r.fetchAll(ctx); err != nil {
		return false, err
	}
	tagged, err := r.tagged(ctx)
	if err != nil {
		return false, err
	}
	switch have := tagged[name]; {
	case have == commit:
		return false, nil
	case have != "":
		return false, fmt.Errorf("%w, of commit %s", ErrTagged, have)
	case !r.has(plumbing.NewHash(commit)):
		return false, r.noCommit()
	}
	tag := &object.Tag{Name: name, Tagger: by, Message: message + "\n", TargetType: plumbing.CommitObject, Target: plumbing.NewHash(commit)}
	encoded := r.store.NewEncodedObject()
	if err := tag.Encode(encoded); err != nil {
		return false, err
	}
	hash, err := r.store.SetEncodedObject(encoded)
	if err != nil {
		return false, err
	}
	if err := r.store.SetReference(plumbing.NewHashReference(full, hash)); err != nil {
		return false, err
	}
	err = r.ask(ctx, func(ctx context.Context, via transport.ProxyOptions) error {
		return r.connection().PushContext(ctx, &git.PushOptions{
			RefSpecs: []config.RefSpec{config.RefSpec(full + ":" + full)}, Auth: r.remote.auth, CABundle: r.remote.ca, ProxyOptions: via,
		})
	})
	return err == nil, err
}

// Signer is who makes a tag, at a time.
func Signer(name, email string, at time.Time) object.Signature {
	return object.Signature{Name: name, Email: email, When: at}
}

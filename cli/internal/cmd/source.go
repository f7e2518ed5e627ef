package cmd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// source is a directory of a Git repository, as flags say it.
type source struct {
	repository string
	path       string
	secret     string
}

func (s *source) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.repository, "repo", "", "URL of the Git repository, or a local work tree of it")
	f.StringVar(&s.path, "path", ".", "directory of the repository that is deployed")
	f.StringVar(&s.secret, "git-secret", "", "Secret with the credentials of the repository, in the namespace of the Restore or of -n")
}

// cleanPath writes a directory of a repository as records do: relative, "." for the root.
func cleanPath(s string) string { return path.Clean(strings.Trim(s, "/")) }

// check refuses what would put a password into an object of the cluster.
func (s *source) check() error {
	if revision.StripCredentials(s.repository) != s.repository {
		return fault.New(fault.Usage, "Put the credentials into a Secret and name it with --git-secret.",
			"the repository's URL must not contain credentials")
	}
	s.path = cleanPath(s.path)
	if s.path == ".." || strings.HasPrefix(s.path, "../") {
		return fault.New(fault.Usage, "", "the path %q leaves the repository", s.path)
	}
	return nil
}

// render opens the repository and gives the objects of a commit.
func (s *source) render(
	ctx context.Context, c client.Client, namespace string, ref git.Ref,
) (at v1alpha1.Revision, objects []*unstructured.Unstructured, err error) {
	repository, err := s.open(ctx, c, namespace)
	if err != nil {
		return at, nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	if at, err = repository.Resolve(ctx, ref, s.path); err != nil {
		return at, nil, answerError(err)
	}
	if objects, err = planner.Render(ctx, repository, at); err != nil {
		return at, nil, plannerError(err)
	}
	return at, objects, nil
}

// open prepares to read the repository. Close it.
func (s *source) open(ctx context.Context, c client.Client, namespace string) (*git.Repository, error) {
	var o git.Options
	if s.secret != "" {
		var secret corev1.Secret
		if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: s.secret}, &secret); err != nil {
			return nil, fmt.Errorf("reading Secret %q: %w", s.secret, err)
		}
		o.Auth = planner.Auth(secret.Data)
	}
	r, err := git.Open(s.repository, o)
	return r, answerError(err)
}

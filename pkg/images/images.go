// Package images asks registries whether images can be had.
package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

const (
	// atOnce is how many images are asked about at the same time, timeout how long one may take.
	atOnce  = 8
	timeout = 20 * time.Second
)

// ErrMissing says that the registry has answered and does not have the image.
var ErrMissing = errors.New("the registry has answered and does not have it")

// Check asks the registry of each image for its manifest, and returns an error for each, nil for one that can be had. Only
// ErrMissing is a proof. The Secrets are those with which the images are pulled; each that names the registry is tried, and then
// none at all. No error holds a credential.
func Check(ctx context.Context, images []string, secrets []corev1.Secret) []error {
	credentials := read(secrets)
	answers := make([]error, len(images))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, image := range images {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			answers[i] = check(ctx, image, credentials)
			return nil
		})
	}
	_ = g.Wait() // each answer is in its place
	return answers
}

func check(ctx context.Context, image string, credentials []credential) error {
	ref, err := name.ParseReference(image)
	if err != nil {
		return fmt.Errorf("its name cannot be read: %w", err)
	}
	ways := []authn.Authenticator{}
	for _, c := range credentials {
		if c.fits(ref.Context()) {
			ways = append(ways, authn.FromConfig(c.config))
		}
	}
	for _, way := range append(ways, authn.Anonymous) {
		if err = head(ctx, ref, way); err == nil || errors.Is(err, ErrMissing) {
			return err
		}
	}
	return err
}

func head(ctx context.Context, ref name.Reference, way authn.Authenticator) error {
	_, err := remote.Head(ref, remote.WithContext(ctx), remote.WithAuth(way))
	var answer *transport.Error
	if !errors.As(err, &answer) {
		if err != nil {
			return errors.New("the registry does not answer, or not as one does")
		}
		return nil
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return ErrMissing
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the registry gives it to nobody without other credentials (status %d); nodes may have their own", answer.StatusCode)
	}
	return fmt.Errorf("the registry answers with status %d", answer.StatusCode)
}

// credential is an entry of a pull Secret.
type credential struct {
	// registry is a host, perhaps with the beginning of a path.
	registry string
	config   authn.AuthConfig
}

func (c credential) fits(repository name.Repository) bool {
	host, dir, _ := strings.Cut(c.registry, "/")
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = name.DefaultRegistry
	}
	return host == repository.RegistryStr() &&
		(dir == "" || repository.RepositoryStr() == dir || strings.HasPrefix(repository.RepositoryStr(), dir+"/"))
}

// read takes the credentials out of pull Secrets, the most particular first. What is no pull Secret has none.
func read(secrets []corev1.Secret) []credential {
	var all []credential
	for _, s := range secrets {
		file := struct {
			Auths map[string]entry `json:"auths"`
		}{}
		if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file) != nil && json.Unmarshal(s.Data[corev1.DockerConfigKey], &file.Auths) != nil {
			continue
		}
		for at, e := range file.Auths {
			at = strings.TrimPrefix(strings.TrimPrefix(at, "https://"), "http://")
			at = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(at, "/"), "/v1"), "/v2")
			all = append(all, credential{at, e.config()})
		}
	}
	slices.SortFunc(all, func(a, b credential) int {
		if d := len(b.registry) - len(a.registry); d != 0 {
			return d
		}
		return strings.Compare(a.registry+a.config.Username, b.registry+b.config.Username)
	})
	return all
}

type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

func (e entry) config() authn.AuthConfig {
	c := authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
	if both, err := base64.StdEncoding.DecodeString(e.Auth); err == nil && e.Auth != "" {
		c.Username, c.Password, _ = strings.Cut(string(both), ":")
	}
	return c
}

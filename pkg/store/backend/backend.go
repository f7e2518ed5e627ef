// Package backend opens a store by its URL.
package backend

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/store/s3"
)

// Credentials are what a store may need besides its URL. The zero value means the ambient chain (environment, shared
// files, web identity, instance role). It prints as a fixed text.
type Credentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	// CACert holds the certificates (PEM) of the authorities to trust; empty means the system's.
	CACert []byte
}

// Format implements fmt.Formatter, so that no verb prints a secret.
func (Credentials) Format(f fmt.State, _ rune) { fmt.Fprint(f, "credentials(hidden)") }

// Open opens the store that rawURL names:
//
//	file:///absolute/path
//	s3://bucket/prefix?endpoint=https://host:port&region=name&path-style=true
//
// All parameters are optional; path-style defaults to true if there is an endpoint. Opening does not prove that
// the store can be reached, except that the directory of a file URL must exist.
func Open(ctx context.Context, rawURL string, c Credentials) (store.Store, error) {
	return open(ctx, rawURL, c, fs.Open)
}

// Create opens the store that rawURL names like Open, but makes the directory of a file URL if it does not exist. It does
// not make buckets.
func Create(ctx context.Context, rawURL string, c Credentials) (store.Store, error) {
	return open(ctx, rawURL, c, fs.Create)
}

func open(ctx context.Context, rawURL string, c Credentials, openDir func(string) (*fs.Store, error)) (store.Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error quotes the URL, which may hold a secret by mistake.
		return nil, errors.New("store URL cannot be parsed: want file:///path or s3://bucket/prefix")
	}
	if u.User != nil {
		return nil, errors.New("store URL must not contain credentials: pass them by secret or environment")
	}
	switch u.Scheme {
	case "file":
		return openFile(u, openDir)
	case "s3":
		return openS3(ctx, u, c)
	}
	return nil, fmt.Errorf("store URL %q: unknown scheme %q: want file:///path or s3://bucket/prefix", shown(u), u.Scheme)
}

func openFile(u *url.URL, openDir func(string) (*fs.Store, error)) (store.Store, error) {
	if u.Host != "" || u.RawQuery != "" || u.Fragment != "" || !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("store URL %q: want file:///absolute/path", shown(u))
	}
	s, err := openDir(u.Path)
	if err != nil {
		return nil, err // not s: a nil *fs.Store is not a nil store.Store
	}
	return s, nil
}

func openS3(ctx context.Context, u *url.URL, c Credentials) (store.Store, error) {
	if u.Host == "" || u.Port() != "" || u.Fragment != "" {
		return nil, fmt.Errorf("store URL %q: want s3://bucket/prefix?endpoint=…&region=…", shown(u))
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("store URL %q: %w", shown(u), err)
	}
	o := s3.Options{
		Bucket: u.Host, Prefix: u.Path, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey,
		SessionToken: c.SessionToken, CACert: c.CACert,
	}
	for name, values := range query {
		if err := setParameter(&o, name, values); err != nil {
			return nil, fmt.Errorf("store URL %q: %w", shown(u), err)
		}
	}
	if o.Endpoint != "" && !query.Has("path-style") {
		o.PathStyle = true
	}
	s, err := s3.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func setParameter(o *s3.Options, name string, values []string) (err error) {
	if len(values) != 1 {
		return fmt.Errorf("parameter %q is given %d times", name, len(values))
	}
	switch name {
	case "endpoint":
		o.Endpoint = values[0]
		if e, err := url.Parse(o.Endpoint); err != nil || e.Host == "" || (e.Scheme != "http" && e.Scheme != "https") || e.User != nil {
			return fmt.Errorf("parameter %q: want http://host or https://host", name)
		}
	case "region":
		o.Region = values[0]
	case "path-style":
		if o.PathStyle, err = strconv.ParseBool(values[0]); err != nil {
			return fmt.Errorf("parameter %q: want true or false", name)
		}
	default:
		return fmt.Errorf("unknown parameter %q: known are endpoint, region and path-style", name)
	}
	return nil
}

// shown is u without its parameters, for errors: what was put there by mistake may be secret.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Opaque: u.Opaque, Host: u.Host, Path: u.Path}).String()
}

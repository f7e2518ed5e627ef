// Package backend opens a store by its URL.
package backend

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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
//	s3://bucket/prefix?endpoint=https://host:port&region=name&path-style=true&…
//
// All parameters are optional, and unknown ones are refused:
//
//	endpoint        URL of a compatible server; Amazon's if there is none
//	region          else that of the environment, else us-east-1
//	path-style      true or false: the bucket is in the path; true if there is an endpoint
//	sse             AES256 or aws:kms: the server encrypts objects
//	kms-key         id or ARN of the key for aws:kms
//	lock            governance:30d or compliance:720h: nobody may delete what a point needs until that long after it was recorded
//	upload-limit    bytes a second, as 20MiB or 500KB; of the store as a whole
//	download-limit  the same
//
// Opening does not prove that the store can be reached, except that the directory of a file URL must exist.
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
	value := values[0]
	switch name {
	case "endpoint":
		o.Endpoint, err = parseEndpoint(value)
	case "region":
		o.Region = value
	case "path-style":
		if o.PathStyle, err = strconv.ParseBool(value); err != nil {
			err = errors.New("want true or false")
		}
	case "sse":
		if o.Encryption.Algorithm = value; value != "AES256" && value != "aws:kms" {
			err = errors.New("want AES256 or aws:kms")
		}
	case "kms-key":
		o.Encryption.KMSKey = value
	case "lock":
		var mode string
		mode, o.Retention.For, err = ParseLock(value)
		o.Retention.Mode = s3.Mode(strings.ToUpper(mode))
	case "upload-limit":
		o.UploadLimit, err = parseBytes(value)
	case "download-limit":
		o.DownloadLimit, err = parseBytes(value)
	default:
		return fmt.Errorf("unknown parameter %q: known are endpoint, region, path-style, sse, kms-key, lock, upload-limit and download-limit", name)
	}
	if err != nil {
		return fmt.Errorf("parameter %q: %w", name, err)
	}
	return nil
}

func parseEndpoint(s string) (string, error) {
	e, err := url.Parse(s)
	if err != nil || e.Host == "" || (e.Scheme != "http" && e.Scheme != "https") || e.User != nil {
		return "", errors.New("want http://host or https://host")
	}
	return s, nil
}

var errLock = errors.New("want governance or compliance, a colon and a time, as governance:30d or compliance:12h")

// ParseLock reads the parameter lock: a mode, governance or compliance, and for how long.
func ParseLock(s string) (mode string, d time.Duration, err error) {
	mode, duration, _ := strings.Cut(s, ":")
	if mode != "governance" && mode != "compliance" {
		return "", 0, errLock
	}
	if days, ok := strings.CutSuffix(duration, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // less than 180 years
		d = time.Duration(n) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(duration)
	}
	if err != nil || d <= 0 {
		return "", 0, errLock
	}
	return mode, d, nil
}

var errBytes = errors.New("want a number of bytes above 0, alone or with KB, MB, GB, KiB, MiB or GiB")

func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGiB")
	unit, known := map[string]int64{
		"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	}[s[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || !known || n == 0 {
		return 0, errBytes
	}
	return int64(n) * unit, nil
}

// shown is u without its parameters, for errors: what was put there by mistake may be secret.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Opaque: u.Opaque, Host: u.Host, Path: u.Path}).String()
}

// Package s3 is a store in a bucket of Amazon S3 or a compatible server. The server must support conditional writes
// (If-None-Match), as S3, Ceph, MinIO and R2 do; one that ignores them is found out before anything is written.
//
// An object is written by one request, whatever its size. In buckets with versions a Delete removes every version of the
// object.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	defaultAttempts = 5
	maxBackoff      = 5 * time.Second
)

// Options say which bucket, where, and as whom.
type Options struct {
	Bucket string
	Prefix string // every object's key begins with it and a slash; may be empty
	Region string // empty: from the environment, else us-east-1
	// Endpoint is the URL of a compatible server; empty means Amazon's. PathStyle puts the bucket into the path instead
	// of the host name, as most compatible servers need.
	Endpoint  string
	PathStyle bool
	// The keys; all empty means the ambient chain: environment, shared files, web identity, instance role.
	AccessKeyID, SecretAccessKey, SessionToken string
	// CACert holds certificates (PEM) of the authorities to trust besides none other; empty means the system's.
	CACert []byte
	// Attempts is how often a request is tried before the server counts as unavailable; 0 means 5. When the server asks to
	// slow down, all requests of the Store do.
	Attempts int
	// Stall is how long nothing may move on a connection before its request is given up and repeated; 0 means a minute.
	Stall time.Duration
	// UploadLimit and DownloadLimit are the bytes a second that bodies may take, all requests of the Store together; 0 is no limit.
	UploadLimit, DownloadLimit int64
	// Encryption is what the server does besides the encryption of the Vault.
	Encryption Encryption
	Retention  Retention
}

// Encryption has the server encrypt objects. The zero value leaves it to the bucket.
type Encryption struct {
	Algorithm string // AES256 or aws:kms
	KMSKey    string // id or ARN of the key; empty means the account's default. Only with aws:kms.
}

// Retention protects each object against deletion as it is written. The bucket must have Object Lock. The zero value leaves
// it to the bucket.
type Retention struct {
	Mode Mode
	For  time.Duration // from the moment of writing
}

// Mode says who can end retention early.
type Mode string

// The modes of Object Lock.
const (
	Governance Mode = "GOVERNANCE" // those with a special permission, which a Store never makes use of
	Compliance Mode = "COMPLIANCE" // nobody
)

func (o Options) check() error {
	switch {
	case o.Bucket == "":
		return errors.New("no bucket named")
	case o.Retention != Retention{} && (o.Retention.Mode != Governance && o.Retention.Mode != Compliance || o.Retention.For <= 0):
		return fmt.Errorf("retention %q for %v: want %s or %s for some time", o.Retention.Mode, o.Retention.For, Governance, Compliance)
	case !slices.Contains([]string{"", "AES256", "aws:kms"}, o.Encryption.Algorithm):
		return fmt.Errorf("encryption %q: want AES256 or aws:kms", o.Encryption.Algorithm)
	case o.Encryption.KMSKey != "" && o.Encryption.Algorithm != "aws:kms":
		return errors.New("a KMS key needs the encryption aws:kms")
	case o.UploadLimit < 0 || o.DownloadLimit < 0 || o.Stall < 0:
		return errors.New("a limit must not be negative")
	}
	return nil
}

// Store is a store.Store in a bucket.
type Store struct {
	client     *s3.Client
	bucket     string
	prefix     string
	attempts   int
	encryption Encryption
	retention  Retention
	writes     writes
	versioning atomic.Int32 // of the bucket: unknown, absent or present
}

var _ store.Locker = (*Store)(nil)

// Open prepares access to a bucket. It does not connect.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("opening S3 store: %w", err)
	}
	if o.Attempts == 0 {
		o.Attempts = defaultAttempts
	}
	if o.Stall == 0 {
		o.Stall = defaultStall
	}
	cfg, err := config.LoadDefaultConfig(ctx, o.load()...)
	if err != nil {
		return nil, fmt.Errorf("opening S3 store: %w", err)
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	client := s3.NewFromConfig(cfg, func(c *s3.Options) {
		c.UsePathStyle = o.PathStyle
		if o.Endpoint != "" {
			c.BaseEndpoint = aws.String(o.Endpoint)
		}
		c.HTTPClient = paced(limited(impatient(c.HTTPClient, o.Stall), o.UploadLimit, o.DownloadLimit))
	})
	prefix := strings.Trim(o.Prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	return &Store{
		client: client, bucket: o.Bucket, prefix: prefix, attempts: o.Attempts,
		encryption: o.Encryption, retention: o.Retention, writes: writes{turn: make(chan struct{}, 1)},
	}, nil
}

func (o Options) load() []func(*config.LoadOptions) error {
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient()),
		config.WithRetryer(o.retryer),
		// Other servers reject the checksums that Amazon's alone needs. Requests are signed with their payload's hash
		// and what comes back is authenticated by the data engine.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
		config.WithLogger(logging.Nop{}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if len(o.CACert) > 0 {
		load = append(load, config.WithCustomCABundle(bytes.NewReader(o.CACert)))
	}
	if o.AccessKeyID != "" || o.SecretAccessKey != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(o.AccessKeyID, o.SecretAccessKey, o.SessionToken)))
	}
	return load
}

// conflict is the answer to one of two conditional writes at the same time; the next attempt finds out which won.
const conflict = "ConditionalRequestConflict"

func (o Options) retryer() aws.Retryer {
	return retry.NewStandard(func(r *retry.StandardOptions) {
		r.MaxAttempts, r.MaxBackoff = o.Attempts, maxBackoff
		r.Retryables = append(r.Retryables, retry.RetryableErrorCode{Codes: map[string]struct{}{conflict: {}}})
		// The quota is for processes with few requests at once: with many, a short failure of the server would use it up.
		r.RateLimiter = ratelimit.None
	})
}

// httpClient gives up on a server that does not accept; how long it may be silent after that is Options.Stall.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 5 * time.Second }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = 10 * time.Second
			t.MaxIdleConnsPerHost = 64
		})
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	if err := store.CheckRange(name, off); err != nil {
		return nil, err
	}
	if length == 0 {
		_, err := s.Stat(ctx, name)
		return []byte{}, err
	}
	var data []byte
	var err error
	for range s.attempts { // the client repeats failed requests, but not answers that break off
		var broken bool
		data, broken, err = s.get(ctx, name, off, length)
		if !broken || ctx.Err() != nil {
			break
		}
	}
	return data, err
}

// get makes one request. Broken means that its answer began well and broke off.
func (s *Store) get(ctx context.Context, name string, off, length int64) (data []byte, broken bool, err error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name)}
	switch {
	case length > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+length-1))
	case off > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return nil, false, classify(ctx, "reading", name, err)
	}
	defer out.Body.Close()
	if in.Range != nil && !strings.HasPrefix(aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-", off)) {
		return nil, false, fmt.Errorf("reading %q: %w: asked for %s, got %q", name, store.ErrUnavailable, *in.Range, aws.ToString(out.ContentRange))
	}
	if out.ContentLength == nil || *out.ContentLength < 0 {
		return nil, false, fmt.Errorf("reading %q: %w: answer without a length", name, store.ErrUnavailable)
	}
	if length >= 0 && *out.ContentLength < length {
		return nil, false, fmt.Errorf("reading %q: %w", name, io.ErrUnexpectedEOF)
	}
	if length < 0 {
		length = *out.ContentLength
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(out.Body, data); err != nil {
		return nil, true, classify(ctx, "reading", name, fmt.Errorf("answer broke off: %w", err))
	}
	return data, false, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := store.CheckName(name); err != nil {
		return store.Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	if err != nil {
		return store.Info{}, s.statError(ctx, name, err)
	}
	if out.ContentLength == nil {
		return store.Info{}, fmt.Errorf("examining %q: %w: answer without a length", name, store.ErrUnavailable)
	}
	return store.Info{Name: name, Size: *out.ContentLength, Modified: aws.ToTime(out.LastModified)}, nil
}

// statError asks again with GET when HEAD found nothing, because an answer to HEAD has no body and so does not tell a
// missing object from a missing bucket.
func (s *Store) statError(ctx context.Context, name string, err error) error {
	if status(err) != http.StatusNotFound {
		return classify(ctx, "examining", name, err)
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name), Range: aws.String("bytes=0-0")})
	if err == nil {
		out.Body.Close()
		return fmt.Errorf("examining %q: %w: HEAD and GET disagree on whether it exists", name, store.ErrUnavailable)
	}
	return classify(ctx, "examining", name, err)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(prefix)}
		for {
			page, err := s.page(ctx, in)
			if err != nil {
				yield(store.Info{}, classify(ctx, "listing", prefix, err))
				return
			}
			for _, o := range page.Contents {
				info, ours := s.info(o)
				if ours && !yield(info, nil) {
					return
				}
			}
			if !*page.IsTruncated {
				return
			}
			in.ContinuationToken = page.NextContinuationToken
		}
	}
}

var errListing = errors.New("listing is cut short or contradicts itself")

// page fetches one page of a listing, and refuses one that may not be whole.
func (s *Store) page(ctx context.Context, in *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	page, err := s.client.ListObjectsV2(ctx, in)
	if err != nil {
		return nil, err
	}
	next := aws.ToString(page.NextContinuationToken)
	switch {
	case page.IsTruncated == nil,
		*page.IsTruncated && (next == "" || next == aws.ToString(in.ContinuationToken)),
		page.KeyCount != nil && int(*page.KeyCount) != len(page.Contents):
		return nil, errListing
	}
	for _, o := range page.Contents {
		if o.Key == nil || o.Size == nil || !strings.HasPrefix(*o.Key, *in.Prefix) {
			return nil, errListing
		}
	}
	return page, nil
}

// info describes an object of a listing, and tells whether it is one that a Store can have written.
func (s *Store) info(o types.Object) (store.Info, bool) {
	name := strings.TrimPrefix(*o.Key, s.prefix)
	return store.Info{Name: name, Size: *o.Size, Modified: aws.ToTime(o.LastModified)}, store.CheckName(name) == nil
}

func (s *Store) key(name string) *string { return aws.String(s.prefix + name) }

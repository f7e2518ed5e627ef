// Package s3 is a store in a bucket of Amazon S3 or a compatible server. The server must support conditional writes
// (If-None-Match), as S3, Ceph, MinIO and R2 do.
package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
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
	// Attempts is how often a request is tried before the server counts as unavailable; 0 means 5.
	Attempts int
}

// Store is a store.Store in a bucket.
type Store struct {
	client   *s3.Client
	bucket   string
	prefix   string
	attempts int
}

var _ store.Store = (*Store)(nil)

// Open prepares access to a bucket. It does not connect.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Bucket == "" {
		return nil, errors.New("opening S3 store: no bucket named")
	}
	if o.Attempts == 0 {
		o.Attempts = defaultAttempts
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient()),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(r *retry.StandardOptions) { r.MaxAttempts, r.MaxBackoff = o.Attempts, maxBackoff })
		}),
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
	cfg, err := config.LoadDefaultConfig(ctx, load...)
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
	})
	prefix := strings.Trim(o.Prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	return &Store{client: client, bucket: o.Bucket, prefix: prefix, attempts: o.Attempts}, nil
}

// httpClient gives up on a server that does not accept or does not begin to answer; a long transfer is not limited.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 5 * time.Second }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = 10 * time.Second
			t.ResponseHeaderTimeout = 60 * time.Second
			t.MaxIdleConnsPerHost = 64
		})
}

// writerKey is the metadata by which a Put recognises an object as its own.
const writerKey = "lockstep-writer"

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	writer := rand.Text()
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.key(name), Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		IfNoneMatch: aws.String("*"), Metadata: map[string]string{writerKey: writer},
	})
	err = classify(ctx, "storing", name, err)
	if errors.Is(err, store.ErrExists) && s.wrote(ctx, name, writer) {
		return nil
	}
	return err
}

// wrote tells whether the object was written by writer: the answer to a first attempt that succeeded may have been lost,
// and the second then found its own object.
func (s *Store) wrote(ctx context.Context, name, writer string) bool {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	return err == nil && head.Metadata[writerKey] == writer
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

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	return classify(ctx, "deleting", name, err)
}

func (s *Store) key(name string) *string { return aws.String(s.prefix + name) }

//go:build linux

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// AwaitS3 waits until the S3 server lists buckets.
func (l Lab) AwaitS3(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no success in 2 minutes"))
	defer cancel()
	err := supervise.Poll(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		return l.S3.request(ctx, http.MethodGet, "/", nil)
	})
	if err != nil {
		return fmt.Errorf("waiting for the S3 server (see %s/log): %w", l.Dir, err)
	}
	return nil
}

// MakeBucket makes a bucket, once the S3 server is up. One that exists is no
// error, be it with or without object lock.
func (l Lab) MakeBucket(ctx context.Context, name string, objectLock bool) error {
	if err := l.AwaitS3(ctx); err != nil {
		return err
	}
	header := http.Header{}
	if objectLock {
		header.Set("X-Amz-Bucket-Object-Lock-Enabled", "true")
	}
	if err := l.S3.request(ctx, http.MethodPut, "/"+name, header); err != nil {
		return fmt.Errorf("making bucket %q: %w", name, err)
	}
	return nil
}

// request makes a signed request without a body.
func (s S3) request(ctx context.Context, method, path string, header http.Header) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.Endpoint+path, nil)
	if err != nil {
		return err
	}
	for k := range header {
		req.Header.Set(k, header.Get(k))
	}
	empty := sha256.Sum256(nil)
	hash := hex.EncodeToString(empty[:])
	req.Header.Set("X-Amz-Content-Sha256", hash)
	credentials := aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hash, "s3", s.Region, time.Now()); err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	// Without the user's proxy: the server is on this machine.
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, body)
	}
	return nil
}

//go:build linux

package supervise

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// Poll calls ready until it succeeds. When the context ends first, the error
// says what the last attempt said.
func Poll(ctx context.Context, every time.Duration, ready func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// TCP waits until something accepts connections at the address.
func TCP(address string) func(context.Context) error {
	return polled(func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// HTTPS waits until the URL answers 200. It checks no certificate: it is for
// servers on the loopback interface of a namespace of our own.
func HTTPS(url string) func(context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	return polled(func(ctx context.Context) error { return get(ctx, client, url) })
}

// HTTP asks once whether the URL answers 200.
func HTTP(ctx context.Context, url string) error {
	return get(ctx, &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}, url)
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

// File waits until the path exists.
func File(path string) func(context.Context) error {
	return polled(func(context.Context) error {
		_, err := os.Stat(path)
		return err
	})
}

func polled(ready func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error { return Poll(ctx, 50*time.Millisecond, ready) }
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/johannesboyne/gofakes3"
)

const (
	bucket    = "bench"
	region    = "us-east-1"
	usagePath = "/-/usage"
)

// usage is what a store holds, and how many requests have reached it.
type usage struct {
	Bytes    int64 `json:"bytes"`
	Objects  int64 `json:"objects"`
	Requests int64 `json:"requests"`
}

// serve is an S3 server that keeps one bucket in memory. It prints its address, waits delay before each request is looked
// at, and ends when its standard input does, so that it never outlives who started it.
func serve(ctx context.Context, delay time.Duration) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler(newMemory(), delay),
		ReadHeaderTimeout: time.Minute,
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is the message
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler is the protocol by the library, over objects in memory.
func handler(m *memory, delay time.Duration) http.Handler {
	var requests atomic.Int64
	s3 := gofakes3.New(m).Server()
	mux := http.NewServeMux()
	mux.HandleFunc(usagePath, func(w http.ResponseWriter, _ *http.Request) {
		u := m.usage()
		u.Requests = requests.Load()
		_ = json.NewEncoder(w).Encode(u) // a client that is gone needs no answer
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if delay > 0 {
			timer := time.NewTimer(delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return
			}
		}
		if isPlainPut(r) {
			m.fastPut(w, r)
			return
		}
		s3.ServeHTTP(w, r)
	})
	return mux
}

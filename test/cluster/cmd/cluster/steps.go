//go:build linux

package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// steps tells what is going on, one line a step with the seconds since the
// start.
type steps struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

func newSteps(out io.Writer) *steps { return &steps{out: out, start: time.Now()} }

func (s *steps) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "%6.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// do does a step that may take long, and tells when it begins, every minute,
// and when it has succeeded; a failure is told with the error.
func (s *steps) do(what string, do func() error) error {
	s.say("%s", what)
	began := time.Now()
	took := func() string { return time.Since(began).Round(100 * time.Millisecond).String() }
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	done := make(chan error, 1)
	go func() { done <- do() }()
	for {
		select {
		case err := <-done:
			if err == nil {
				s.say("%s: done in %s", what, took())
			}
			return err
		case <-minute.C:
			s.say("%s: at it for %s", what, took())
		}
	}
}

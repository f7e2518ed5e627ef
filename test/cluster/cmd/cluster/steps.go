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

// begin reports a step, and the function it returns how long it took.
func (s *steps) begin(what string) func() {
	s.say("%s", what)
	began := time.Now()
	return func() { s.say("%s: done in %.1f s", what, time.Since(began).Seconds()) }
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// timeline prints what happens as it happens, and once more in short at the end.
type timeline struct {
	start time.Time
	out   io.Writer
	lines []string
}

func newTimeline(out io.Writer) timeline { return timeline{start: time.Now(), out: out} }

func (t *timeline) say(format string, args ...any) {
	line := fmt.Sprintf("%7.1f s  %s", time.Since(t.start).Seconds(), fmt.Sprintf(format, args...))
	t.lines = append(t.lines, line)
	fmt.Fprintln(t.out, line)
}

func (t *timeline) print() {
	fmt.Fprintln(t.out, "\nTimeline")
	for _, l := range t.lines {
		fmt.Fprintln(t.out, l)
	}
}

// indented sets what a command prints apart from the timeline.
func (t *timeline) indented() io.Writer { return &indenter{out: t.out, fresh: true} }

type indenter struct {
	out   io.Writer
	fresh bool
}

func (i *indenter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		if i.fresh {
			fmt.Fprint(i.out, "           │ ")
		}
		i.fresh = found
		if _, err := i.out.Write(line); err != nil {
			return 0, err
		}
		if found {
			fmt.Fprintln(i.out)
		}
		rest = after
	}
	return len(p), nil
}

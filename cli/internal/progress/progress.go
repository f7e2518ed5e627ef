// Package progress shows work that is under way: on a terminal as lines that are drawn again in place, elsewhere as
// plain lines whenever something changed.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
)

const (
	// redrawEvery bounds how often a terminal is drawn anew.
	redrawEvery = 100 * time.Millisecond
	// repeatEvery is how often a plain log tells of bytes alone.
	repeatEvery = 15 * time.Second
)

// Item is one thing that makes progress.
type Item struct {
	Name  string
	State string
	// Note says why the item is where it is; it may be empty.
	Note string
	// Done and Total count bytes; with a Total of 0 the item is not measured.
	Done, Total int64
}

// Board shows items. Its methods may be called from several goroutines at once.
type Board struct {
	w        io.Writer
	terminal bool
	width    int // columns of the terminal
	now      func() time.Time

	mu      sync.Mutex
	seen    map[string]*seen
	items   []Item
	drawn   int // lines on the terminal that the next drawing replaces
	drawnAt time.Time
}

// seen is what the board remembers of an item to tell changes and speed.
type seen struct {
	state, note string
	// The rate is measured from the moment at which the item entered its state.
	since  time.Time
	from   int64
	toldAt time.Time
}

// New makes a board that writes to w. Width is the number of columns of the terminal, 0 for unknown.
func New(w io.Writer, terminal bool, width int, now func() time.Time) *Board {
	if width <= 0 {
		width = 80
	}
	return &Board{w: w, terminal: terminal, width: width, now: now, seen: map[string]*seen{}}
}

// Show replaces what the board shows.
func (b *Board) Show(items ...Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items = items
	changed := false
	for _, it := range items {
		changed = b.observe(it) || changed
	}
	if b.terminal && (changed || b.now().Sub(b.drawnAt) >= redrawEvery) {
		b.draw()
	}
}

// observe takes note of an item, tells of it in a plain log if it is due, and reports whether it changed its state.
func (b *Board) observe(it Item) bool {
	now := b.now()
	s := b.seen[it.Name]
	changed := s == nil || s.state != it.State
	if changed {
		s = &seen{state: it.State, note: it.Note, since: now, from: it.Done, toldAt: now}
		b.seen[it.Name] = s
	}
	due := changed || s.note != it.Note || (it.Total > 0 && now.Sub(s.toldAt) >= repeatEvery)
	if due {
		s.note, s.toldAt = it.Note, now
		if !b.terminal {
			fmt.Fprintln(b.w, b.line(it))
		}
	}
	return changed
}

// Say writes a line that stays.
func (b *Board) Say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.erase()
	fmt.Fprintf(b.w, format+"\n", args...)
	if b.terminal {
		b.draw()
	}
}

// Clear removes what is drawn from a terminal.
func (b *Board) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.erase()
	b.items = nil
}

// Close leaves the last state of the items on the terminal.
func (b *Board) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.terminal {
		b.draw()
	}
	b.items, b.drawn = nil, 0
}

func (b *Board) erase() {
	if b.drawn > 0 {
		fmt.Fprintf(b.w, "\x1b[%dA\x1b[J", b.drawn)
		b.drawn = 0
	}
}

func (b *Board) draw() {
	b.erase()
	for _, it := range b.items {
		fmt.Fprintln(b.w, clip(b.line(it), b.width-1))
	}
	b.drawn, b.drawnAt = len(b.items), b.now()
}

// line describes an item: its name and state, then bytes, rate and the time left where they are known.
func (b *Board) line(it Item) string {
	parts := []string{fmt.Sprintf("  %-34s %s", it.Name, it.State)}
	done := it.Total > 0 && it.Done >= it.Total
	switch {
	case done:
		parts = append(parts, output.Bytes(it.Total))
	case it.Total > 0:
		parts = append(parts, fmt.Sprintf("%s of %s (%d%%)", output.Bytes(it.Done), output.Bytes(it.Total), it.Done*100/it.Total))
	case it.Done > 0:
		parts = append(parts, output.Bytes(it.Done))
	}
	if rate := b.rate(it); rate > 0 && !done {
		parts = append(parts, output.Bytes(int64(rate))+"/s")
		if it.Total > 0 {
			left := time.Duration(float64(it.Total-it.Done) / rate * float64(time.Second))
			parts = append(parts, output.Duration(left)+" left")
		}
	}
	if it.Note != "" {
		parts = append(parts, it.Note)
	}
	return strings.Join(parts, ", ")
}

// rate is the mean speed of an item since it entered its state, in bytes a second; 0 before it can be told.
func (b *Board) rate(it Item) float64 {
	s := b.seen[it.Name]
	elapsed := b.now().Sub(s.since).Seconds()
	if elapsed < 1 || it.Done <= s.from {
		return 0
	}
	return float64(it.Done-s.from) / elapsed
}

// clip keeps a line within the terminal: a wrapped line would spoil the redrawing.
func clip(s string, width int) string {
	s = strings.ReplaceAll(s, "\n", " ")
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}

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
	// nameWidth is how wide the column of names is in a plain log, and at most on a terminal.
	nameWidth = 34
)

// Tone says how an item stands, for its colour, and for which items are left out where there is no room for all.
type Tone int

// Tones.
const (
	Working Tone = iota
	Waiting
	Good
	Bad
)

// Item is one thing that makes progress.
type Item struct {
	Name  string
	State string
	// Note says why the item is where it is; it may be empty.
	Note string
	// Done and Total count bytes; with a Total of 0 the item is not measured.
	Done, Total int64
	Tone        Tone
	// Since is when the item began, to show for how long it has been under way; zero shows nothing.
	Since time.Time
}

// Terminal is what a board is drawn on. The zero value is none: a file, a pipe, the log of a CI job.
type Terminal struct {
	// Size asks for the present size; nil is no terminal.
	Size func() (columns, rows int)
	// Colour allows colours.
	Colour bool
}

// Board shows items. Its methods may be called from several goroutines at once.
type Board struct {
	w        io.Writer
	terminal Terminal
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
	// The rate is measured from the moment at which the item entered its state, or began again.
	since      time.Time
	from, last int64
	toldAt     time.Time
}

// New makes a board that writes to w.
func New(w io.Writer, terminal Terminal, now func() time.Time) *Board {
	return &Board{w: w, terminal: terminal, now: now, seen: map[string]*seen{}}
}

// Show replaces what the board shows. Where a terminal has too few lines for all, finished items are left out first, then
// waiting ones; the last item always stays.
func (b *Board) Show(items ...Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items = items
	changed := false
	for _, it := range items {
		changed = b.observe(it) || changed
	}
	if b.drawable() && (changed || b.now().Sub(b.drawnAt) >= redrawEvery) {
		b.draw()
	}
}

func (b *Board) drawable() bool { return b.terminal.Size != nil }

// observe takes note of an item, tells of it in a plain log if it is due, and reports whether it changed its state.
func (b *Board) observe(it Item) bool {
	now := b.now()
	s := b.seen[it.Name]
	changed := s == nil || s.state != it.State
	if changed {
		s = &seen{state: it.State, note: it.Note, since: now, from: it.Done, toldAt: now}
		b.seen[it.Name] = s
	}
	if it.Done < s.last { // a new attempt
		s.since, s.from = now, it.Done
	}
	s.last = it.Done
	due := changed || s.note != it.Note || (it.Total > it.Done && now.Sub(s.toldAt) >= repeatEvery)
	if due {
		s.note, s.toldAt = it.Note, now
		if !b.drawable() {
			fmt.Fprintln(b.w, b.line(it, nameWidth))
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
	if b.drawable() {
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
	if b.drawable() {
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
	columns, rows := b.terminal.Size()
	shown, left := fitting(b.items, max(rows-2, 3))
	// A third of a narrow line is enough for a name: what happens is told behind it.
	width := 0
	for _, it := range shown {
		width = max(width, len([]rune(it.Name)))
	}
	width = min(width, nameWidth, max(columns*2/5, 8))
	for i, it := range shown {
		if i == len(shown)-1 && left != "" {
			fmt.Fprintln(b.w, clip(left, columns-1))
			b.drawn++
		}
		fmt.Fprintln(b.w, b.painted(it.Tone, clip(b.line(it, width), columns-1)))
		b.drawn++
	}
	b.drawnAt = b.now()
}

// fitting chooses the items for a number of lines, and says what is left out.
func fitting(items []Item, lines int) (shown []Item, left string) {
	if len(items) <= lines {
		return items, ""
	}
	room := lines - 2 // the last item, and the line about those that are left out
	keep := make([]bool, len(items))
	keep[len(items)-1] = true
	for _, tone := range []Tone{Bad, Working, Waiting, Good} {
		for i, it := range items[:len(items)-1] {
			if it.Tone == tone && room > 0 {
				keep[i], room = true, room-1
			}
		}
	}
	counts := map[string]int{}
	var states []string
	for i, it := range items {
		if keep[i] {
			shown = append(shown, it)
			continue
		}
		if counts[it.State]++; counts[it.State] == 1 {
			states = append(states, it.State)
		}
	}
	for i, state := range states {
		states[i] = fmt.Sprintf("%d %s", counts[state], state)
	}
	return shown, fmt.Sprintf("  … and %d more: %s", len(items)-len(shown), strings.Join(states, ", "))
}

// painted colours a line for a terminal that is to have colours.
func (b *Board) painted(tone Tone, line string) string {
	codes := map[Tone]string{Good: "32", Bad: "31", Waiting: "2"}
	if !b.terminal.Colour || codes[tone] == "" {
		return line
	}
	return "\x1b[" + codes[tone] + "m" + line + "\x1b[0m"
}

// line describes an item: its name and state, then bytes, rate and the time left where they are known.
func (b *Board) line(it Item, width int) string {
	parts := []string{fmt.Sprintf("  %-*s %s", width, short(it.Name, width, b.drawable()), it.State)}
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
	if !it.Since.IsZero() {
		parts = append(parts, "after "+output.Duration(b.now().Sub(it.Since)))
	}
	return output.Printable(strings.Join(parts, ", "))
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

// short keeps the end of a name that has no room: it is what tells names apart.
func short(name string, width int, cut bool) string {
	r := []rune(name)
	if !cut || len(r) <= width {
		return name
	}
	return "…" + string(r[len(r)-width+1:])
}

// clip keeps a line within the terminal: a wrapped line would spoil the redrawing.
func clip(s string, width int) string {
	r := []rune(s)
	if width < 1 || len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}

package progress_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/cli/internal/progress"
)

const mib = 1 << 20

func terminal(columns, rows int) progress.Terminal {
	return progress.Terminal{Size: func() (int, int) { return columns, rows }}
}

func TestPlainLinesTellOnlyChanges(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := progress.New(&out, progress.Terminal{}, func() time.Time { return now })

	b.Show(progress.Item{Name: "a", State: "Waiting"})
	b.Show(progress.Item{Name: "a", State: "Waiting"})
	b.Show(progress.Item{Name: "a", State: "Saving", Total: 100 * mib})
	now = now.Add(2 * time.Second)
	b.Show(progress.Item{Name: "a", State: "Saving", Done: 10 * mib, Total: 100 * mib}) // bytes alone, too soon
	now = now.Add(18 * time.Second)
	b.Show(progress.Item{Name: "a", State: "Saving", Done: 40 * mib, Total: 100 * mib})
	b.Say("one thing")
	b.Show(progress.Item{Name: "a", State: "Saved", Done: 100 * mib, Total: 100 * mib})
	now = now.Add(time.Minute)
	b.Show(progress.Item{Name: "a", State: "Saved", Done: 100 * mib, Total: 100 * mib})
	b.Close()

	pad := strings.Repeat(" ", 33)
	want := "  a" + pad + " Waiting\n" +
		"  a" + pad + " Saving, 0 B of 100 MiB (0%)\n" +
		"  a" + pad + " Saving, 40 MiB of 100 MiB (40%), 2.0 MiB/s, 30 s left\n" +
		"one thing\n" +
		"  a" + pad + " Saved, 100 MiB\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestASecondAttemptIsMeasuredAnew(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := progress.New(&out, progress.Terminal{}, func() time.Time { return now })
	show := func(done int64) {
		b.Show(progress.Item{Name: "a", State: "Filling", Done: done * mib, Total: 100 * mib})
	}
	show(0)
	now = now.Add(10 * time.Second)
	show(90)
	now = now.Add(2 * time.Second)
	show(0)
	now = now.Add(10 * time.Second)
	show(20)
	if want := "20 MiB of 100 MiB (20%), 2.0 MiB/s, 40 s left\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got %q, want the end %q", out.String(), want)
	}
}

func TestTerminalRedrawsInPlaceAndClips(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := progress.New(&out, terminal(24, 24), func() time.Time { return now })

	b.Show(progress.Item{Name: "a", State: "Waiting"}, progress.Item{Name: "volume shop/data-0", State: "Waiting"})
	b.Show(progress.Item{Name: "a", State: "Waiting"}, progress.Item{Name: "volume shop/data-0", State: "Failed", Note: "a\x1b[2J\nlong note"})
	b.Close()

	first := "  a         Waiting\n  …p/data-0 Waiting\n"
	second := "\x1b[2A\x1b[J  a         Waiting\n  …p/data-0 Failed, a …\n"
	if diff := cmp.Diff(first+second+second, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// TestNoLineIsWiderThanTheTerminal: one that wraps would leave rests of itself behind at every redrawing.
func TestNoLineIsWiderThanTheTerminal(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, columns := range []int{20, 40, 80, 200} {
		var out strings.Builder
		b := progress.New(&out, terminal(columns, 24), func() time.Time { return now })
		b.Show(progress.Item{
			Name: "volume with-a-long-namespace/and-a-long-claim-0", State: "Hydrating", Done: 3, Total: 100, Note: strings.Repeat("why ", 40), Since: now,
		})
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n >= columns {
				t.Errorf("%d columns: a line of %d: %q", columns, n, line)
			}
		}
	}
}

func TestALowTerminalKeepsWhatMatters(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := progress.New(&out, terminal(80, 7), func() time.Time { return now })
	var items []progress.Item
	for i := range 20 {
		it := progress.Item{Name: fmt.Sprintf("v%02d", i), State: "Bound", Tone: progress.Good}
		switch {
		case i == 7:
			it.State, it.Tone = "Failed", progress.Bad
		case i == 11 || i == 12:
			it.State, it.Tone = "Hydrating", progress.Working
		case i > 15:
			it.State, it.Tone = "Planned", progress.Waiting
		}
		items = append(items, it)
	}
	b.Show(append(items, progress.Item{Name: "all", State: "Working"})...)
	want := "  v07 Failed\n  v11 Hydrating\n  v12 Hydrating\n  … and 17 more: 13 Bound, 4 Planned\n  all Working\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestColoursOnlyWhereTheyAreAllowed(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, colour := range []bool{true, false} {
		var out strings.Builder
		on := terminal(80, 24)
		on.Colour = colour
		progress.New(&out, on, func() time.Time { return now }).Show(progress.Item{Name: "a", State: "Bound", Tone: progress.Good})
		if got := strings.Contains(out.String(), "\x1b[32m"); got != colour {
			t.Errorf("colour allowed: %v; output %q", colour, out.String())
		}
	}
}

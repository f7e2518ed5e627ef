package progress_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/cli/internal/progress"
)

func TestPlainLinesTellOnlyChanges(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := progress.New(&out, false, 0, func() time.Time { return now })
	const mib = 1 << 20

	b.Show(progress.Item{Name: "a", State: "Waiting"})
	b.Show(progress.Item{Name: "a", State: "Waiting"})
	b.Show(progress.Item{Name: "a", State: "Saving", Total: 100 * mib})
	now = now.Add(2 * time.Second)
	b.Show(progress.Item{Name: "a", State: "Saving", Done: 10 * mib, Total: 100 * mib}) // bytes alone, too soon
	now = now.Add(18 * time.Second)
	b.Show(progress.Item{Name: "a", State: "Saving", Done: 40 * mib, Total: 100 * mib})
	b.Say("one thing")
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

func TestTerminalRedrawsInPlaceAndClips(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := progress.New(&out, true, 45, func() time.Time { return now })

	b.Show(progress.Item{Name: "a", State: "Waiting"}, progress.Item{Name: "b", State: "Waiting"})
	b.Show(progress.Item{Name: "a", State: "Waiting"}, progress.Item{Name: "b", State: "Failed", Note: "a\nlong note"})
	b.Close()

	pad := strings.Repeat(" ", 33)
	first := "  a" + pad + " Waiting\n  b" + pad + " Waiting\n"
	second := "\x1b[2A\x1b[J  a" + pad + " Waiting\n  b" + pad + " Failed…\n"
	if diff := cmp.Diff(first+second+second, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

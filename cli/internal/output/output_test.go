package output_test

import (
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 10: "10 KiB", 1<<20 - 1: "1.0 MiB", 3 << 30: "3.0 GiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := output.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 0: "0 s", 1400 * time.Millisecond: "1 s", 59600 * time.Millisecond: "1 min 00 s", 61 * time.Second: "1 min 01 s",
		time.Hour: "1 h 00 min", 47*time.Hour + 59*time.Minute: "47 h 59 min", 50 * time.Hour: "2 d 2 h",
	} {
		if got := output.Duration(d); got != want {
			t.Errorf("Duration(%s) = %q, want %q", d, got, want)
		}
	}
}

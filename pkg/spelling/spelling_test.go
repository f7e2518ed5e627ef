package spelling_test

import (
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"v1.4.2", "v1.4.2", 0}, {"v1.4.2", "v1.4.3", 1}, {"v1.4.2", "1.4.2", 1}, {"deploy", "depoly", 2}, {"kitten", "sitting", 3},
	} {
		if got := spelling.Distance(c.a, c.b); got != c.want {
			t.Errorf("from %q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := spelling.Distance(c.b, c.a); got != c.want {
			t.Errorf("from %q to %q: %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "10s": 10 * time.Second, "1m": time.Minute, "10m": 10 * time.Minute, "1m30s": 90 * time.Second, "1h": time.Hour, "1h30m": 90 * time.Minute,
		"1h0m10s": time.Hour + 10*time.Second, "10h10m": 10*time.Hour + 10*time.Minute, "24h": 24 * time.Hour, "-1h": -time.Hour, "1.5s": 1500 * time.Millisecond,
	} {
		got := spelling.Duration(d)
		if got != want {
			t.Errorf("%s is written as %s, want %s", d, got, want)
		}
		if read, err := time.ParseDuration(got); err != nil || read != d {
			t.Errorf("%s is read as %s: %v", got, read, err)
		}
	}
}

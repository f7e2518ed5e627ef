package spelling_test

import (
	"testing"

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

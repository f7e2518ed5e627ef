package lab

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// inner has this test binary fail, as TestReasons wants to see it.
const inner = "LOCKSTEP_TEST_REASONS"

func TestMain(m *testing.M) {
	if os.Getenv(inner) == "" {
		os.Exit(m.Run())
	}
	code, why, err := RunTests(m, "dump_test.go")
	if err != nil {
		panic(err)
	}
	for _, reason := range why {
		fmt.Println(reason)
	}
	os.Exit(code)
}

// TestReasons runs tests that fail, and looks at the end of their output.
func TestReasons(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInner", "-test.v")
	cmd.Env = append(os.Environ(), inner+"=yes")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("passed:\n%s", out)
	}
	_, end, found := strings.Cut(string(out), "\nFAILED ")
	if !found {
		t.Fatalf("the reasons are not told:\n%s", out)
	}
	want := `TestInner: reasons_test.go: the whole is broken
FAILED TestInner/one: reasons_test.go: one broke
        in two lines
FAILED TestInner/two: reasons_test.go: two broke
FAILED TestInner/two: reasons_test.go: and so did its cleanup
`
	if diff := cmp.Diff(want, regexp.MustCompile(`go:\d+: `).ReplaceAllString(end, "go: ")); diff != "" {
		t.Errorf("(-want +got)\n%s\nof\n%s", diff, out)
	}
}

func TestInner(t *testing.T) {
	if os.Getenv(inner) == "" {
		t.Skip("TestReasons runs it")
	}
	t.Run("one", func(t *testing.T) {
		t.Cleanup(func() { dump(t) })
		t.Fatal("one broke\nin two lines")
	})
	t.Run("well", func(t *testing.T) { t.Log("no reason") })
	t.Run("two", func(t *testing.T) {
		t.Cleanup(func() { t.Error("and so did its cleanup") })
		t.Cleanup(func() { dump(t) })
		t.Error("two broke")
	})
	t.Error("the whole is broken")
}

func TestReasonsCutsWhatIsLong(t *testing.T) {
	var b strings.Builder
	b.WriteString("=== RUN   TestLong\n")
	for range lastWords + 2 {
		b.WriteString("    long_test.go:1: began\n" + strings.Repeat("        and on\n", lastLines+3))
	}
	b.WriteString("--- FAIL: TestLong (0.00s)\nFAIL\n")
	got := reasons(b.String())
	if len(got) != lastWords {
		t.Fatalf("%d messages, want %d: %q", len(got), lastWords, got)
	}
	for _, reason := range got {
		if !strings.HasPrefix(reason, "FAILED TestLong: long_test.go:1: began\n") || !strings.HasSuffix(reason, "(4 lines more)") {
			t.Errorf("told %q", reason)
		}
	}
}

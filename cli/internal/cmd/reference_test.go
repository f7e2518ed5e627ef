package cmd

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md")

// TestReference keeps docs/cli.md what the program says of itself: go test ./cli/internal/cmd -run TestReference -update
func TestReference(t *testing.T) {
	p := &Program{Name: "lockstep", Version: "test", Getenv: func(string) string { return "" }, Now: time.Now}
	var got strings.Builder
	got.WriteString("# The command line\n\nWritten by the program itself: `make test` fails when the two differ.\n")
	reference(&got, p.root(), 2)
	path := filepath.Join("..", "..", "..", "docs", "cli.md")
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("docs/cli.md (-written +program), run with -update:\n%s", diff)
	}
}

func reference(out *strings.Builder, c *cobra.Command, level int) {
	c.InitDefaultHelpFlag()
	title := c.CommandPath()
	if c.IsAdditionalHelpTopicCommand() {
		title = c.Short
	}
	about := c.Long
	if about == "" {
		about = c.Short + "."
	}
	fmt.Fprintf(out, "\n%s %s\n\n```text\n%s\n", strings.Repeat("#", level), title, about)
	if c.Runnable() {
		fmt.Fprintf(out, "\nUsage:\n  %s\n", c.UseLine())
	}
	if c.Example != "" {
		fmt.Fprintf(out, "\nExamples:\n%s\n", c.Example)
	}
	if flags := c.LocalFlags().FlagUsages(); flags != "" && !c.IsAdditionalHelpTopicCommand() {
		fmt.Fprintf(out, "\nFlags:\n%s", flags)
	}
	out.WriteString("```\n")
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
			reference(out, sub, min(level+1, 3))
		}
	}
}

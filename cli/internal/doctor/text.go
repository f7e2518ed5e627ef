package doctor

import (
	"fmt"
	"io"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
)

var marks = map[Result]string{OK: "ok", Warning: "WARNING", Unknown: "UNKNOWN", Error: "ERROR"}

// Write writes the report for people: what is not well with all its findings; all of it if that is asked for.
func (r Report) Write(w io.Writer, all bool) error {
	var group Group
	counts := map[Result]int{}
	for _, a := range r.Answers {
		counts[a.Result]++
		if a.Group != group {
			group = a.Group
			fmt.Fprintf(w, "%s\n", group)
		}
		fmt.Fprintf(w, "  %-8s %s (%s)\n", marks[a.Result], a.Title, a.ID)
		for _, f := range a.Findings {
			if f.Result == OK && !all {
				continue
			}
			fmt.Fprintf(w, "           %s: %s\n", marks[f.Result], output.Printable(f.Seen))
			if f.Fix != "" {
				fmt.Fprintf(w, "             > %s\n", output.Printable(f.Fix))
			}
		}
	}
	_, err := fmt.Fprintf(w, "\n%s, %s, %d unknown, %d ok\n", output.Count(counts[Error], "error", "errors"),
		output.Count(counts[Warning], "warning", "warnings"), counts[Unknown], counts[OK])
	return err
}

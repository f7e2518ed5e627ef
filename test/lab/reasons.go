package lab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// RunTests runs m and returns why each test failed, to be told at the very end: the end of a long log is what people get to see
// first. It is for `go test -v`: without, the output is short anyway. What is logged by the files dumps is no reason.
func RunTests(m *testing.M, dumps ...string) (code int, why []string, err error) {
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	var said bytes.Buffer
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(stdout, &said), r)
		copied <- err
	}()
	os.Stdout = w
	code = m.Run()
	os.Stdout = stdout
	_ = w.Close()
	if err := <-copied; err != nil {
		return code, nil, err
	}
	return code, reasons(said.String(), dumps...), nil
}

var (
	// turn says which test the lines after it are of.
	turn = regexp.MustCompile(`^(?:=== (?:RUN|NAME|CONT|PAUSE)| *--- (FAIL|PASS|SKIP):) +(\S+)`)
	// message begins what a test says; its further lines are indented more.
	message = regexp.MustCompile(`^ *([\w.-]+\.go):\d+: `)
)

// lastWords are how many messages of a test are told again, and how many lines of each.
const lastWords, lastLines = 4, 12

// reasons finds in the output of `go test -v` what each test that failed said last.
func reasons(output string, dumps ...string) []string {
	const more = "        "
	said := map[string][]string{}
	var failed []string
	name, open := "", false
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		if m := turn.FindStringSubmatch(line); m != nil {
			name, open = m[2], false
			if m[1] == "FAIL" {
				failed = append(failed, name)
			}
			continue
		}
		if m := message.FindStringSubmatch(line); m != nil {
			open = !slices.Contains(dumps, m[1])
			if open {
				said[name] = append(said[name], strings.TrimSpace(line))
			}
			continue
		}
		if open = open && strings.HasPrefix(line, more); open {
			last := len(said[name]) - 1
			said[name][last] += "\n" + more + strings.TrimSpace(line)
		}
	}
	var told []string
	for _, name := range failed {
		messages := said[name]
		messages = messages[max(0, len(messages)-lastWords):]
		for _, m := range messages {
			lines := strings.Split(m, "\n")
			if cut := len(lines) - lastLines; cut > 0 {
				lines = append(lines[:lastLines:lastLines], fmt.Sprintf("%s(%d lines more)", more, cut))
			}
			told = append(told, fmt.Sprintf("FAILED %s: %s", name, strings.Join(lines, "\n")))
		}
		if len(messages) == 0 {
			told = append(told, fmt.Sprintf("FAILED %s", name))
		}
	}
	return told
}

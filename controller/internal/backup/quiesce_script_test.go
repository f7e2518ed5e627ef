package backup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script runs quiesce.sh as a container's shell would, with directories of the test in place of those of a container.
type script struct {
	t     *testing.T
	dir   string
	shell []string
}

func (s *script) run(args ...string) string {
	s.t.Helper()
	text := strings.Replace(quiesceScript, "'/dev/shm /tmp /run'", "'"+s.dir+"/gone "+s.dir+"'", 1)
	argv := append(append([]string{}, s.shell...), append([]string{"-c", text, "lockstep"}, args...)...)
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

func (s *script) expect(want string, args ...string) {
	s.t.Helper()
	if got := s.run(args...); got != want {
		s.t.Errorf("%q answered %q, want %q", args[0], got, want)
	}
}

// says is a command that adds a word to the log, however odd the word is.
func (s *script) says(word string) string {
	return quote([]string{"sh", "-c", `echo "$0" >>"$1"`, word, filepath.Join(s.dir, "log")})
}

func (s *script) log() string {
	data, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return strings.Join(strings.Split(strings.TrimSpace(string(data)), "\n"), " ")
}

// eventually waits for the watchdog, which nobody can wait for otherwise.
func (s *script) eventually(want string) {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for s.log() != want {
		select {
		case <-ticker.C:
		case <-deadline:
			s.t.Fatalf("the log is %q, want %q", s.log(), want)
		}
	}
}

func TestQuiesceScript(t *testing.T) {
	shells := [][]string{{"sh"}}
	for _, s := range [][]string{{"bash"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(s[0]); err == nil {
			shells = append(shells, s)
		}
	}
	for name, test := range map[string]func(*script){
		"held and let go": func(s *script) {
			s.expect("frozen", "freeze", "t", "30", s.says("it's $held"), s.says("free"))
			s.expect("thawed", "thaw", "t", s.says("free"))
			s.expect("thawed", "thaw", "t", s.says("again")) // the answer was lost
			if got := s.log(); got != "it's $held free" {
				s.t.Errorf("the log is %q", got)
			}
		},
		"nobody comes": func(s *script) {
			s.expect("frozen", "freeze", "t", "1", s.says("held"), s.says("free"))
			s.eventually("held free")
			s.expect("struck", "thaw", "t", s.says("late"))
			s.eventually("held free")
		},
		"the pre hook fails": func(s *script) {
			s.expect("failed 3", "freeze", "t", "30", "sh -c 'exit 3'", s.says("free"))
			s.expect("thawed", "thaw", "t", s.says("free"))
			s.eventually("free")
		},
		"the pre hook hangs": func(s *script) {
			s.expect("struck", "freeze", "t", "1", "sleep 60", s.says("free"))
			s.eventually("free")
		},
		"begun before": func(s *script) {
			s.expect("frozen", "freeze", "t", "30", s.says("held"), s.says("free"))
			s.expect("begun", "freeze", "t", "30", s.says("twice"), s.says("free"))
			s.expect("thawed", "thaw", "t", s.says("free"))
			s.eventually("held free")
		},
		"the post hook fails once": func(s *script) {
			s.expect("frozen", "freeze", "t", "30", "true", "false")
			s.expect("failed 1", "thaw", "t", "false")
			s.expect("thawed", "thaw", "t", s.says("free"))
			s.eventually("free")
		},
		"never held": func(s *script) {
			s.expect("never", "thaw", "t", s.says("free"))
			s.eventually("")
		},
		"what is done is cleared by the next": func(s *script) {
			s.expect("frozen", "freeze", "t", "30", "true", "true")
			s.expect("thawed", "thaw", "t", "true")
			s.expect("frozen", "freeze", "u", "30", "true", "true")
			s.expect("never", "thaw", "t", "true")
			s.expect("thawed", "thaw", "u", "true")
		},
		"nowhere to write": func(s *script) {
			s.dir += "/none"
			s.expect("nowhere", "freeze", "t", "30", "true", "true")
		},
	} {
		for _, shell := range shells {
			t.Run(fmt.Sprintf("%s/%s", shell[0], name), func(t *testing.T) {
				t.Parallel()
				test(&script{t, t.TempDir(), shell})
			})
		}
	}
}

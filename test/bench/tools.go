package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Operations, in the order they are measured.
const (
	opInit     = "init"
	opSave     = "save"
	opNoChange = "no-change save"
	opLoad     = "load"
	opEdit     = "1 % edit save"
)

var operations = []string{opInit, opSave, opNoChange, opLoad, opEdit}

// repetition is one pass of one tool over one dataset and one store: all its operations, with a fresh repository.
type repetition struct {
	tool   tool
	round  int    // from 0
	dir    string // its own: keys, caches, settings
	source string
	target string // does not exist before the load
	store  *store
	sparse bool   // the source has holes worth keeping
	id     string // of what was saved last, for tools that name it
}

// tool is a program that is measured.
type tool struct {
	name string
	// version says what ran; it is empty if another entry does.
	version string
	// codec is what Lockstep compresses with.
	codec string
	// beside marks what is no rival but a yardstick; it has no repository and runs on the local store only.
	beside bool
	// command is how the tool does an operation; no arguments mean that it does not.
	command func(r *repetition, op string) command
	// before runs just before an operation and is not measured.
	before func(ctx context.Context, r *repetition, op string) error
	// saved takes note of what a save printed.
	saved func(r *repetition, stdout []byte) error
	// loaded is where the loaded tree is, if not in the target itself.
	loaded func(r *repetition) string
}

// isSave reports whether the operation saves.
func isSave(op string) bool { return op == opSave || op == opNoChange || op == opEdit }

// findTools finds what can be measured here; what cannot is named with its reason.
func findTools(ctx context.Context, lockstepBin, self string) (tools []tool, missing []string) {
	own := func(ctx context.Context) ([]tool, error) { return findLockstep(ctx, lockstepBin) }
	for _, find := range []func(context.Context) ([]tool, error){own, restic, kopia} {
		found, err := find(ctx)
		if err != nil {
			missing = append(missing, err.Error())
		}
		tools = append(tools, found...)
	}
	return append(tools, yardsticks(self)...), missing
}

func output(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s: %w: %s", strings.Join(args, " "), err, lastLines(string(out), 5))
	}
	return strings.TrimSpace(string(out)), nil
}

// defaultCodec finds in the help of "volume save" what it compresses with unless told.
var defaultCodec = regexp.MustCompile(`--compression .*\(default "?(\w+)`)

// findLockstep is the program as it comes, and with the other compressor if it has a choice.
func findLockstep(ctx context.Context, bin string) ([]tool, error) {
	version, err := output(ctx, bin, "version")
	if err != nil {
		return nil, err
	}
	help, err := output(ctx, bin, "volume", "save", "--help")
	if err != nil {
		return nil, err
	}
	tools := []tool{{name: "lockstep", codec: "s2", version: firstLine(version)}}
	if strings.Contains(help, "--compression") {
		other := tool{name: "lockstep-zstd", codec: "zstd"}
		if found := defaultCodec.FindStringSubmatch(help); found != nil && found[1] == "zstd" {
			tools[0].codec, other = "zstd", tool{name: "lockstep-s2", codec: "s2"}
		}
		tools = append(tools, other)
	}
	for i := range tools {
		tools[i].lockstep(bin, i > 0)
	}
	return tools, nil
}

// lockstep fills in how the program is run; explicit means that the compressor must be named.
func (t *tool) lockstep(bin string, explicit bool) {
	codec := t.codec
	t.command = func(r *repetition, op string) command {
		vault := "file://" + r.store.path
		if r.store.host != "" {
			vault = fmt.Sprintf("s3://%s/vault?endpoint=http://%s&region=%s", bucket, r.store.host, region)
		}
		c := command{env: append(r.store.env(), "LOCKSTEP_VAULT="+vault, "LOCKSTEP_KEY_FILE="+filepath.Join(r.dir, "key"), "CI=true",
			"HOME="+r.dir, "XDG_CACHE_HOME="+filepath.Join(r.dir, "cache"), "TMPDIR="+r.dir)}
		switch {
		case op == opInit:
			c.args = []string{bin, "vault", "init", vault, "-o", "json"}
		case op == opLoad:
			c.args = []string{bin, "volume", "load", r.id, r.target, "-o", "json"}
		case explicit:
			c.args = []string{bin, "volume", "save", r.source, "-o", "json", "--compression", codec}
		default:
			c.args = []string{bin, "volume", "save", r.source, "-o", "json"}
		}
		return c
	}
	t.before = coldCache("cache")
	t.saved = func(r *repetition, stdout []byte) error {
		var saved struct{ ID string }
		err := json.Unmarshal(stdout, &saved)
		r.id = saved.ID
		return err
	}
}

// coldCache empties a tool's cache before a load: after a disaster there is none.
func coldCache(name string) func(context.Context, *repetition, string) error {
	return func(_ context.Context, r *repetition, op string) error {
		if op != opLoad {
			return nil
		}
		return os.RemoveAll(filepath.Join(r.dir, name))
	}
}

// restic runs at its fastest compression, if it has a choice, and as it comes in all else.
func restic(ctx context.Context) ([]tool, error) {
	version, err := output(ctx, "restic", "version")
	if err != nil {
		return nil, err
	}
	help, err := output(ctx, "restic", "backup", "--help")
	if err != nil {
		return nil, err
	}
	restoreHelp, err := output(ctx, "restic", "restore", "--help")
	if err != nil {
		return nil, err
	}
	save := []string{"restic", "backup", "-q"}
	if strings.Contains(help, "fastest") {
		save = append(save, "--compression", "fastest")
	}
	if strings.Contains(help, "--no-scan") {
		save = append(save, "--no-scan")
	}
	t := tool{name: "restic", version: version}
	t.command = func(r *repetition, op string) command {
		repository := r.store.path
		if r.store.host != "" {
			repository = "s3:http://" + r.store.host + "/" + bucket + "/restic"
		}
		c := command{env: append(r.store.env(), "RESTIC_REPOSITORY="+repository, "RESTIC_PASSWORD=bench", "RESTIC_CACHE_DIR="+filepath.Join(r.dir, "cache"),
			"HOME="+r.dir, "TMPDIR="+r.dir)}
		switch op {
		case opInit:
			c.args = []string{"restic", "init", "-q"}
		case opLoad:
			c.args = []string{"restic", "restore", "latest", "-q", "--target", r.target}
			if r.sparse && strings.Contains(restoreHelp, "--sparse") {
				c.args = append(c.args, "--sparse")
			}
		default:
			c.args = append(slices.Clone(save), r.source)
		}
		return c
	}
	t.before = coldCache("cache")
	// A restic of any age restores below the path that was saved.
	t.loaded = func(r *repetition) string { return filepath.Join(r.target, r.source) }
	return []tool{t}, nil
}

// kopiaSettings are what a repository and its policy are made with.
type kopiaSettings struct {
	name     string
	create   []string
	policy   []string
	parallel int // of a restore
}

// kopia runs in two settings: as Velero sets it, and tuned for machine and data.
func kopia(ctx context.Context) ([]tool, error) {
	version, err := output(ctx, "kopia", "--version")
	if err != nil {
		return nil, err
	}
	cores := strconv.Itoa(runtime.NumCPU())
	settings := []kopiaSettings{
		{
			// Velero's pkg/repository/udmrepo/kopialib/backend/common.go and pkg/uploader/kopia/snapshot.go: kopia's
			// own defaults of the repository, 5 GB of cache, nothing compressed, one reader and one restorer a core, no file split.
			name: "kopia-velero",
			create: []string{"--block-hash", "BLAKE2B-256-128", "--encryption", "AES256-GCM-HMAC-SHA256", "--object-splitter", "DYNAMIC-4M-BUZHASH",
				"--content-cache-size-mb", "3200", "--content-cache-size-limit-mb", "4000", "--metadata-cache-size-mb", "800", "--metadata-cache-size-limit-mb", "1000"},
			policy:   []string{"--compression", "none", "--max-parallel-file-reads", cores, "--parallel-upload-above-size-mib", "1000000000"},
			parallel: runtime.NumCPU(),
		},
		{
			name: "kopia-tuned",
			// A cache of contents makes a load write everything twice.
			create: []string{"--block-hash", "BLAKE3-256", "--encryption", "AES256-GCM-HMAC-SHA256", "--object-splitter", "DYNAMIC-1M-BUZHASH",
				"--content-cache-size-mb", "1", "--content-cache-size-limit-mb", "1"},
			policy:   []string{"--compression", "s2-default", "--max-parallel-file-reads", "8", "--parallel-upload-above-size-mib", "32"},
			parallel: 16,
		},
	}
	var tools []tool
	for _, s := range settings {
		tools = append(tools, s.tool(version))
	}
	return tools, nil
}

func (s kopiaSettings) tool(version string) tool {
	return tool{
		name:    s.name,
		version: "kopia " + version,
		command: s.command,
		before: func(ctx context.Context, r *repetition, op string) error {
			switch op {
			case opSave:
				return s.run(ctx, r, append([]string{"policy", "set", "--global"}, s.policy...)...)
			case opLoad:
				return s.run(ctx, r, "cache", "clear")
			}
			return nil
		},
		saved: func(r *repetition, stdout []byte) error {
			var saved struct {
				ID string `json:"id"`
			}
			err := json.Unmarshal(stdout, &saved)
			r.id = saved.ID
			return err
		},
	}
}

func (s kopiaSettings) command(r *repetition, op string) command {
	c := command{env: append(r.store.env(), "KOPIA_PASSWORD=bench", "KOPIA_CONFIG_PATH="+filepath.Join(r.dir, "kopia.config"), "KOPIA_CHECK_FOR_UPDATES=false",
		"KOPIA_CACHE_DIRECTORY="+filepath.Join(r.dir, "cache"), "KOPIA_LOG_DIR="+filepath.Join(r.dir, "log"), "HOME="+r.dir, "TMPDIR="+r.dir)}
	switch op {
	case opInit:
		c.args = []string{"kopia", "repository", "create", "filesystem", "--path", r.store.path}
		if r.store.host != "" {
			c.args = []string{"kopia", "repository", "create", "s3", "--bucket", bucket, "--prefix", "kopia/", "--endpoint", r.store.host,
				"--region", region, "--disable-tls"}
		}
		c.args = append(c.args, s.create...)
	case opLoad:
		c.args = []string{"kopia", "snapshot", "restore", r.id, r.target, "--parallel", strconv.Itoa(s.parallel), "--no-progress"}
		if r.sparse {
			c.args = append(c.args, "--write-sparse-files")
		}
	default:
		c.args = []string{"kopia", "snapshot", "create", r.source, "--json", "--no-progress"}
	}
	// Velero runs maintenance apart from saves, too.
	c.args = append(c.args, "--no-auto-maintenance")
	return c
}

// run does something with the repository that is not measured.
func (s kopiaSettings) run(ctx context.Context, r *repetition, args ...string) error {
	cmd := exec.CommandContext(ctx, "kopia", args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, s.command(r, "").env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kopia %s: %w: %s", strings.Join(args, " "), err, lastLines(string(out), 3))
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

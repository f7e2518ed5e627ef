package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const corpus = "../../testdata/small-files/"

func TestRun(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "new")
	for _, c := range []struct {
		args string
		want string // in the output
		err  string
	}{
		{"check " + corpus + "vault --key-file " + corpus + "key1", "0 hurt", ""},
		{"check " + corpus + "vault --key-file " + corpus + "key1 -o json", `"whole": true`, ""},
		{"list " + corpus + "vault --key-file " + corpus + "key1", `"app":"shop"`, ""},
		{"extract " + corpus + "vault --key-file " + corpus + "key1 zz " + filepath.Join(dest, "none"), "", "snapshots have an id that begins with"},
		{"check " + corpus + "vault --key-file " + corpus + "key2", "", "no such file"},
		{"check " + corpus + "vault --key-file " + corpus + "../two-keys/key1", "", "no identity opens"},
		{"check " + corpus + " --key-file " + corpus + "key1", "", "reading config"},
		{"check", "", "usage"},
		{"mend " + corpus + "vault --key-file " + corpus + "key1", "", "usage"},
	} {
		var out bytes.Buffer
		err := run(strings.Fields(c.args), &out)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %v, want %q", c.args, err, c.err)
		}
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: printed %s, want %q", c.args, out.String(), c.want)
		}
	}
}

func TestExtract(t *testing.T) {
	snapshots, err := filepath.Glob(corpus + "vault/snapshots/*")
	if err != nil || len(snapshots) != 1 {
		t.Fatalf("%q: %v", snapshots, err)
	}
	dest := filepath.Join(t.TempDir(), "new")
	if err := run([]string{"extract", corpus + "vault", "--key-file", corpus + "key1", filepath.Base(snapshots[0])[:8], dest}, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dest, "dir/deep/er/file"))
	if err != nil || string(data) != "four" {
		t.Errorf("got %q, %v", data, err)
	}
}

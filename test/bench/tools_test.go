package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLockstepIsMeasuredWithTheOtherCompressorToo(t *testing.T) {
	for name, test := range map[string]struct {
		help   string
		tools  []string
		codecs []string
	}{
		"no choice":  {"      --label stringToString   label", []string{"lockstep"}, []string{"s2"}},
		"s2 first":   {`      --compression codec   s2, zstd or none (default "s2")`, []string{"lockstep", "lockstep-zstd"}, []string{"s2", "zstd"}},
		"zstd first": {`      --compression codec   s2, zstd or none (default zstd)`, []string{"lockstep", "lockstep-s2"}, []string{"zstd", "s2"}},
	} {
		t.Run(name, func(t *testing.T) {
			bin := filepath.Join(t.TempDir(), "lockstep")
			if err := os.WriteFile(bin, []byte("#!/bin/sh\ncat <<'END'\n"+test.help+"\nEND\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			tools, err := findLockstep(t.Context(), bin)
			if err != nil || len(tools) != len(test.tools) {
				t.Fatalf("found %d tools, %v", len(tools), err)
			}
			for i, tool := range tools {
				if tool.name != test.tools[i] || tool.codec != test.codecs[i] {
					t.Errorf("%s with %s, want %s with %s", tool.name, tool.codec, test.tools[i], test.codecs[i])
				}
				if got := (report{tools: tools}).lockstep(tool.codec); got != tool.name {
					t.Errorf("%s is looked for as %s", tool.name, got)
				}
			}
		})
	}
}

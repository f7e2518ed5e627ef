//go:build linux

package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
)

func TestOnce(t *testing.T) {
	b := Builder{Home: home.Home{Dir: t.TempDir()}}
	calls := 0
	failing := func(_ context.Context, dir string) error {
		calls++
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o644), errors.New("broken"))
	}
	if _, err := b.once(t.Context(), "x", "key", failing); err == nil || calls != 1 {
		t.Fatalf("%d calls, %v", calls, err)
	}
	good := func(_ context.Context, dir string) error {
		calls++
		return os.WriteFile(filepath.Join(dir, "whole"), nil, 0o644)
	}
	for range 2 {
		dir, err := b.once(t.Context(), "x", "key", good)
		if err != nil {
			t.Fatal(err)
		}
		if !exists(filepath.Join(dir, "whole")) || exists(filepath.Join(dir, "half")) {
			t.Error("what a failed build left was taken for the result")
		}
	}
	if calls != 2 {
		t.Errorf("%d calls; the second good one should have come from the cache", calls)
	}
	if _, err := b.once(t.Context(), "x", "other", good); err != nil || calls != 3 {
		t.Errorf("other inputs: %d calls, %v", calls, err)
	}
}

func TestKeyOf(t *testing.T) {
	if keyOf("ab", "c") == keyOf("a", "bc") {
		t.Error("inputs run together")
	}
	if keyOf("a") != keyOf("a") {
		t.Error("keys are not stable")
	}
}

func TestLinkerFlags(t *testing.T) {
	flags := strings.Join(linkerFlags(), " ")
	for _, want := range []string{"gitVersion=v1.36.1", "gitMajor=1 ", "gitMinor=36"} {
		if !strings.Contains(flags+" ", want) {
			t.Errorf("no %q in %q", want, flags)
		}
	}
}

func TestRecipesAreWhole(t *testing.T) {
	for _, r := range recipes() {
		if !strings.HasPrefix(r.Name, "lockstep.test/") || strings.ContainsAny(r.shortName(), ":/") || len(r.Packages) == 0 {
			t.Errorf("%+v", r)
		}
		for _, name := range r.Files {
			if _, err := imageFiles.ReadFile("files/" + name); err != nil {
				t.Error(err)
			}
		}
	}
}

//go:build linux

package home

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestFind(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		want string
	}{
		"own":   {map[string]string{"LOCKSTEP_HOME": "/x", "XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/x"},
		"cache": {map[string]string{"XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/y/lockstep"},
		"home":  {map[string]string{"HOME": "/z"}, "/z/.cache/lockstep"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := Find(func(k string) string { return tc.env[k] })
			if err != nil || h.Dir != tc.want {
				t.Errorf("got %q, %v; want %q", h.Dir, err, tc.want)
			}
		})
	}
	if _, err := Find(func(string) string { return "" }); err == nil {
		t.Error("no error without any directory")
	}
}

func TestLockExcludes(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	unlock, err := h.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if _, err := h.Lock(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v, want it to wait in vain", err)
	}
	other, err := h.Lock(t.Context(), "y")
	if err != nil {
		t.Fatalf("another lock: %v", err)
	}
	other()
	unlock()
	again, err := h.Lock(t.Context(), "x")
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again()
}

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "state.json")
	type state struct{ A int }
	if err := WriteJSON(path, state{A: 7}); err != nil {
		t.Fatal(err)
	}
	var got state
	if err := ReadJSON(path, &got); err != nil || got.A != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
}

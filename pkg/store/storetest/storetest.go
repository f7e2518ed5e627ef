// Package storetest is the suite that every store backend passes, and a store that misbehaves for tests of what uses one.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// Run checks the contract of store.Store. Each call of open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, store.Store){
		"RoundTrip": roundTrip, "Ranges": ranges, "Absent": absent, "WriteOnce": writeOnce, "Race": race,
		"List": list, "LongList": longList, "Stop": stop, "Delete": remove, "Cancelled": cancelled, "BadNames": badNames,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, s store.Store, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data); err != nil {
		t.Fatalf("Put(%q): %v", name, err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want one that is %v", what, err, want)
	}
	for _, other := range []error{store.ErrNotFound, store.ErrExists, store.ErrUnavailable, store.ErrDenied, store.ErrLocked} {
		if !errors.Is(want, other) && errors.Is(err, other) {
			t.Errorf("%s: error %v is also %v", what, err, other)
		}
	}
}

func listAll(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List(%q): %v", prefix, err)
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

func roundTrip(t *testing.T, s store.Store) {
	big := make([]byte, 9<<20)
	for i := range big {
		big[i] = byte(i * i >> 8)
	}
	objects := map[string][]byte{"config": []byte("hello"), "empty": {}, "a/b/c-d_e.f": {0, 255, 10}, "packs/big": big}
	for name, data := range objects {
		put(t, s, name, data)
	}
	for name, data := range objects {
		got, err := s.Get(t.Context(), name, 0, -1)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("Get(%q): %d bytes, %v; want the %d bytes put", name, len(got), err, len(data))
		}
		info, err := s.Stat(t.Context(), name)
		if err != nil || info.Size != int64(len(data)) || info.Name != name || info.Modified.IsZero() {
			t.Errorf("Stat(%q) = %+v, %v; want size %d and a time", name, info, err, len(data))
		}
	}
}

func ranges(t *testing.T, s store.Store) {
	put(t, s, "x/digits", []byte("0123456789"))
	for _, c := range []struct {
		off, length int64
		want        string
	}{{0, 10, "0123456789"}, {0, 1, "0"}, {9, 1, "9"}, {3, 4, "3456"}, {4, -1, "456789"}, {0, -1, "0123456789"}, {5, 0, ""}} {
		got, err := s.Get(t.Context(), "x/digits", c.off, c.length)
		if err != nil || string(got) != c.want {
			t.Errorf("Get(%d, %d) = %q, %v; want %q", c.off, c.length, got, err, c.want)
		}
	}
	for _, c := range [][2]int64{{0, 11}, {9, 2}, {10, 1}, {10, -1}, {11, -1}, {1 << 40, 1}} {
		if got, err := s.Get(t.Context(), "x/digits", c[0], c[1]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Get(%d, %d) = %q, %v; want io.ErrUnexpectedEOF", c[0], c[1], got, err)
		}
	}
	if _, err := s.Get(t.Context(), "x/digits", -1, 1); err == nil {
		t.Error("Get with a negative offset succeeded")
	}
}

func absent(t *testing.T, s store.Store) {
	put(t, s, "there/object", []byte("x"))
	for _, name := range []string{"nothing", "there", "there/objec", "there/object-2", "there/object/below", "a/b/c"} {
		_, err := s.Get(t.Context(), name, 0, -1)
		wantErr(t, "Get "+name, err, store.ErrNotFound)
		_, err = s.Get(t.Context(), name, 1, 4)
		wantErr(t, "ranged Get "+name, err, store.ErrNotFound)
		_, err = s.Stat(t.Context(), name)
		wantErr(t, "Stat "+name, err, store.ErrNotFound)
	}
}

func writeOnce(t *testing.T, s store.Store) {
	put(t, s, "keys/one", []byte("first"))
	wantErr(t, "second Put", s.Put(t.Context(), "keys/one", []byte("second")), store.ErrExists)
	wantErr(t, "Put of the same data", s.Put(t.Context(), "keys/one", []byte("first")), store.ErrExists)
	if got, err := s.Get(t.Context(), "keys/one", 0, -1); err != nil || string(got) != "first" {
		t.Errorf("after a refused Put the object is %q, %v; want it unchanged", got, err)
	}
}

// race has several writers try one name: exactly one may win, and what is stored is whole and the winner's.
func race(t *testing.T, s store.Store) {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			errs[i] = s.Put(t.Context(), "race/x", bytes.Repeat([]byte{byte('a' + i)}, 1<<16))
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("writers %d and %d both won", winner, i)
		case err == nil:
			winner = i
		default:
			wantErr(t, "Put", err, store.ErrExists)
		}
	}
	got, err := s.Get(t.Context(), "race/x", 0, -1)
	if winner < 0 || err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte('a' + winner)}, 1<<16)) {
		t.Errorf("winner %d, but stored are %d bytes, %v", winner, len(got), err)
	}
}

func list(t *testing.T, s store.Store) {
	if got := listAll(t, s, ""); len(got) != 0 {
		t.Fatalf("an empty store lists %q", got)
	}
	all := []string{"a-b", "a.d/x", "a/1", "a/2/3", "ab/1", "b", "c"}
	for i, name := range all {
		put(t, s, name, make([]byte, i))
	}
	for prefix, want := range map[string][]string{
		"": all, "a": all[:5], "a/": {"a/1", "a/2/3"}, "a/2": {"a/2/3"}, "a/2/3": {"a/2/3"}, "a/2/3/": {}, "d": {}, "b": {"b"},
		"d/": {}, "a/2/": {"a/2/3"}, "a/2/4/": {}, "b/c/": {}, "/": {}, "a//": {}, "a/../a/": {},
	} {
		if diff := cmp.Diff(want, listAll(t, s, prefix)); diff != "" {
			t.Errorf("List(%q) (-want +got):\n%s", prefix, diff)
		}
	}
	for info, err := range s.List(t.Context(), "a/2/3") {
		if err != nil || info.Size != 3 || info.Modified.IsZero() {
			t.Errorf("listed %+v, %v; want size 3 and a time", info, err)
		}
	}
}

// longList exceeds the thousand objects that a page of S3 holds.
func longList(t *testing.T, s store.Store) {
	want := make([]string, 2100)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range want {
		want[i] = fmt.Sprintf("many/%02x/%05d", i%16, i)
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			put(t, s, want[i], nil)
		})
	}
	wg.Wait()
	slices.Sort(want)
	if diff := cmp.Diff(want, listAll(t, s, "many/")); diff != "" {
		t.Errorf("long listing (-want +got):\n%s", diff)
	}
}

func stop(t *testing.T, s store.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("stop/%d", i), nil)
	}
	seen := 0
	for _, err := range s.List(t.Context(), "stop/") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	if seen != 2 {
		t.Errorf("saw %d objects, want to stop at 2", seen)
	}
}

func remove(t *testing.T, s store.Store) {
	put(t, s, "d/x", []byte("1"))
	for range 2 {
		if err := s.Delete(t.Context(), "d/x"); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if err := s.Delete(t.Context(), "never/was"); err != nil {
		t.Errorf("Delete of what does not exist: %v", err)
	}
	_, err := s.Stat(t.Context(), "d/x")
	wantErr(t, "Stat after Delete", err, store.ErrNotFound)
	put(t, s, "d/x", []byte("2"))
	// What only begins like an object is none.
	for _, name := range []string{"d", "d/", "d/x/y", "d/xx"} {
		if err := s.Delete(t.Context(), name); err != nil && store.CheckName(name) == nil {
			t.Errorf("Delete(%q): %v", name, err)
		}
	}
	if got, err := s.Get(t.Context(), "d/x", 0, -1); err != nil || string(got) != "2" {
		t.Errorf("after deleting its neighbours the object is %q, %v", got, err)
	}
}

func cancelled(t *testing.T, s store.Store) {
	put(t, s, "c", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "Put", s.Put(ctx, "c2", nil), context.Canceled)
	_, err := s.Get(ctx, "c", 0, -1)
	wantErr(t, "Get", err, context.Canceled)
	_, err = s.Stat(ctx, "c")
	wantErr(t, "Stat", err, context.Canceled)
	wantErr(t, "Delete", s.Delete(ctx, "c"), context.Canceled)
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
	}
	wantErr(t, "List", last, context.Canceled)
	if _, err := s.Stat(t.Context(), "c"); err != nil {
		t.Errorf("after a cancelled Delete: %v", err)
	}
}

func badNames(t *testing.T, s store.Store) {
	for _, name := range []string{"", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a/.hidden", "A", "a b", "a\x00", "ä",
		strings.Repeat("x", 201), strings.Repeat("x/", 300) + "x"} {
		if err := s.Put(t.Context(), name, nil); err == nil {
			t.Errorf("Put(%q) succeeded", name)
		}
		if _, err := s.Get(t.Context(), name, 0, -1); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get(%q): %v", name, err)
		}
		if _, err := s.Stat(t.Context(), name); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Stat(%q): %v", name, err)
		}
		if err := s.Delete(t.Context(), name); err == nil {
			t.Errorf("Delete(%q) succeeded", name)
		}
	}
	if got := listAll(t, s, ""); len(got) != 0 {
		t.Errorf("bad names left %q", got)
	}
}

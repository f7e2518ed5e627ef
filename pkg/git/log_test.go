package git

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLog(t *testing.T) {
	w, v1, v2 := shop(t)
	for name, location := range map[string]string{"served": serve(t, w).url(), "local": w.dir} {
		t.Run(name, func(t *testing.T) {
			commits, more, err := open(t, location, Options{}).Log(t.Context(), Ref{}, 100)
			if err != nil || more {
				t.Fatal(err, more)
			}
			var hashes []string
			for _, c := range commits {
				hashes = append(hashes, c.Hash)
			}
			i := slices.Index(hashes, v1)
			if i < 0 || slices.Index(hashes, v2) < 0 || len(hashes) < 2 {
				t.Fatalf("got %q", hashes)
			}
			if c := commits[i]; !cmp.Equal(c.Tags, []string{"first", "v1.0.0"}) || c.Subject != w.git("log", "-1", "--format=%s", v1) || c.Time.IsZero() {
				t.Errorf("got %+v", c)
			}
			few, more, err := open(t, location, Options{}).Log(t.Context(), Ref{Tag: "v2.0.0"}, 1)
			if err != nil || !more || len(few) != 1 || few[0].Hash != v2 {
				t.Errorf("got %+v, %v, %v", few, more, err)
			}
			if _, _, err := open(t, location, Options{}).Log(t.Context(), Ref{Branch: "absent"}, 1); !errors.Is(err, ErrRefNotFound) {
				t.Errorf("a branch that is not there: %v", err)
			}
		})
	}
}

func TestPushTag(t *testing.T) {
	w, v1, v2 := shop(t)
	s := serve(t, w, "http.receivepack=true")
	by := Signer("Lockstep", "lockstep@example.com", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	push := func(name, commit string) (bool, error) {
		return open(t, s.url(), Options{}).PushTag(t.Context(), name, commit, "Point 1", by)
	}
	if made, err := push("lockstep/shop/1", v1); err != nil || !made {
		t.Fatal(made, err)
	}
	if made, err := push("lockstep/shop/1", v1); err != nil || made {
		t.Errorf("again: %v, %v", made, err)
	}
	if _, err := push("lockstep/shop/1", v2); !errors.Is(err, ErrTagged) {
		t.Errorf("another commit: %v", err)
	}
	if _, err := push("lockstep/shop/2", "0123456789012345678901234567890123456789"); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("an absent commit: %v", err)
	}
	if _, err := push("lockstep/../x", v1); err == nil {
		t.Error("a name that Git does not allow is pushed")
	}
	if _, err := open(t, w.dir, Options{}).PushTag(t.Context(), "lockstep/shop/3", v1, "", by); err == nil {
		t.Error("a local repository is changed")
	}
	tags, err := open(t, s.url(), Options{}).Tags(t.Context())
	if err != nil || !slices.Contains(tags[v1], "lockstep/shop/1") || len(tags[v2]) != 1 {
		t.Errorf("tags %v, %v", tags, err)
	}
}

package volume_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store/cached"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// flipOnce alters a bit of what the nth Get returns, at the beginning, in the middle or at the end of it.
func flipOnce(n int, where float64) storetest.Faults {
	var gets atomic.Int64
	return func(c storetest.Call) storetest.Fault {
		if c.Op != storetest.Get || gets.Add(1) != int64(n) {
			return storetest.Fault{}
		}
		return storetest.Fault{Corrupt: func(data []byte) []byte {
			data = bytes.Clone(data)
			if len(data) > 0 {
				data[int(where*float64(len(data)-1))] ^= 4
			}
			return data
		}}
	}
}

// A bit that is altered once on the way from the store, whichever answer it is in, hurts nothing: no load, no verification, no listing.
func TestBitAlteredOnTheWay(t *testing.T) {
	t.Parallel()
	s := storetest.NewMemory()
	key := newIdentity(t)
	v, err := volume.Create(t.Context(), s, key.Recipient())
	must(t, err)
	src := smallTree(t)
	write(t, filepath.Join(src, "large"), randomBytes(1, 3<<20))
	write(t, filepath.Join(src, "other"), randomBytes(2, 5000))
	snapshot := save(t, v, src)
	must(t, v.PutDocument(t.Context(), "point", "a", []byte("data")))
	use := func(dir string) (reread int64, err error) {
		v, err := volume.Open(t.Context(), s, key)
		if err != nil {
			return 0, err
		}
		if _, err := v.Load(t.Context(), snapshot.ID, dir, volume.LoadOptions{}); err != nil {
			return 0, err
		}
		if d, err := v.Documents(t.Context(), "point", ""); err != nil || len(d) != 1 || string(d[0].Data) != "data" {
			return 0, fmt.Errorf("documents %v: %w", d, err)
		}
		if _, err := v.Document(t.Context(), "point", "a"); err != nil {
			return 0, err
		}
		if _, err := v.Snapshots(t.Context()); err != nil {
			return 0, err
		}
		r, err := v.Verify(t.Context(), volume.VerifyOptions{Level: volume.VerifyData})
		if err == nil {
			err = r.Err()
		}
		return v.Reread(), err
	}
	base := openDir(t)
	s.SetFaults(func(storetest.Call) storetest.Fault { return storetest.Fault{} })
	_, err = use(filepath.Join(base, "good"))
	must(t, err)
	gets := s.Count(storetest.Get)
	reread := 0
	for n := 1; n <= gets; n++ {
		s.SetFaults(flipOnce(n, float64(n%3)/2))
		dir := filepath.Join(base, fmt.Sprint(n))
		again, err := use(dir)
		s.SetFaults(nil)
		if err != nil {
			t.Fatalf("Get %d of %d: %v", n, gets, err)
		}
		if digest(t, dir) != snapshot.Roots {
			t.Fatalf("Get %d of %d: another tree was loaded", n, gets)
		}
		if again > 1 {
			t.Errorf("Get %d of %d: %d reads were repeated", n, gets, again)
		}
		reread += int(again)
	}
	if reread < gets/2 { // some of what is fetched is not needed
		t.Errorf("%d of %d altered answers were found out", reread, gets)
	}
}

// What a cache holds of an altered answer hurts nothing either.
func TestAlteredCopy(t *testing.T) {
	s := storetest.NewMemory()
	key := newIdentity(t)
	v, err := volume.Create(t.Context(), s, key.Recipient())
	must(t, err)
	src := smallTree(t)
	snapshot := save(t, v, src)
	dir := t.TempDir()
	load := func() (*volume.LoadResult, int64) {
		v, err := volume.Open(t.Context(), cached.New(s, dir, 1<<20, "index/"), key)
		must(t, err)
		r, err := v.Load(t.Context(), snapshot.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{})
		must(t, err)
		return r, v.Reread()
	}
	// A load can do without the index: the altered one is in the cache then.
	s.SetFaults(storetest.On(storetest.Get, "index/", storetest.Fault{Corrupt: func(data []byte) []byte { return flipped(data, len(data)/2) }}))
	load()
	s.SetFaults(nil)
	r, reread := load()
	if len(r.Damaged) > 0 || reread == 0 {
		t.Errorf("%v is said to be damaged; %d reads were repeated", r.Damaged, reread)
	}
}

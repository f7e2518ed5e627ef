package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// unknown fails the test unless err leaves open what the vault holds: it must not be one of the errors that prove absence.
func unknown(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	}
	for _, proof := range []error{volume.ErrNoVault, volume.ErrSnapshotNotFound, volume.ErrDocumentNotFound, store.ErrNotFound} {
		if errors.Is(err, proof) {
			t.Errorf("%s: %v claims %q", what, err, proof)
		}
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func failing(op storetest.Op, prefix string, err error) storetest.Faults {
	return storetest.On(op, prefix, storetest.Fault{Err: err})
}

func TestCreateAndOpen(t *testing.T) {
	ctx, s := t.Context(), storetest.NewMemory()
	alice, bob, eve := newIdentity(t), newIdentity(t), newIdentity(t)
	_, err := volume.Open(ctx, s, alice)
	wantErr(t, "opening an empty store", err, volume.ErrNoVault)
	_, err = volume.Create(ctx, s)
	if err == nil {
		t.Error("created a vault without a recipient")
	}
	v, err := volume.Create(ctx, s, alice.Recipient(), bob.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for name, ids := range map[string][]age.Identity{"alice": {alice}, "bob": {bob}, "eve and bob": {eve, bob}} {
		if opened, err := volume.Open(ctx, s, ids...); err != nil || opened.ID() != v.ID() {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = volume.Open(ctx, s, eve)
	wantErr(t, "eve", err, volume.ErrWrongKey)
	_, err = volume.Open(ctx, s)
	wantErr(t, "nobody", err, volume.ErrWrongKey)
	before := s.Names()
	_, err = volume.Create(ctx, s, eve.Recipient())
	wantErr(t, "creating again", err, volume.ErrVaultExists)
	if after := s.Names(); len(after) != len(before) {
		t.Errorf("creating again left %q", after)
	}

	for _, fault := range []error{store.ErrUnavailable, store.ErrDenied} {
		for _, f := range []storetest.Faults{failing(storetest.Get, "", fault), failing(storetest.List, "", fault)} {
			s.SetFaults(f)
			_, err := volume.Open(ctx, s, alice)
			unknown(t, "opening a store that fails", err)
			wantErr(t, "opening a store that fails", err, fault)
		}
	}
	s.SetFaults(failing(storetest.Stat, "", store.ErrUnavailable))
	_, err = volume.Create(ctx, s, eve.Recipient())
	wantErr(t, "creating in a store that fails", err, store.ErrUnavailable)
}

// Of many creators one wins, and it can open what there is then; the others are told.
func TestCreateRace(t *testing.T) {
	s := storetest.NewMemory()
	ids := make([]*age.X25519Identity, 8)
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		ids[i] = newIdentity(t)
		wg.Go(func() { _, errs[i] = volume.Create(t.Context(), s, ids[i].Recipient()) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		_, openErr := volume.Open(t.Context(), s, ids[i])
		if err == nil {
			won++
			if openErr != nil {
				t.Errorf("the winner cannot open: %v", openErr)
			}
			continue
		}
		wantErr(t, "a loser", err, volume.ErrVaultExists)
		wantErr(t, "a loser opening", openErr, volume.ErrWrongKey)
	}
	if won != 1 {
		t.Errorf("%d creators won", won)
	}
}

// No bit of the config or of the key can be changed, and neither can be cut, without notice.
func TestTamperedConfigAndKey(t *testing.T) {
	s := storetest.NewMemory()
	id := newIdentity(t)
	if _, err := volume.Create(t.Context(), s, id.Recipient()); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(objects(s, "keys/"), "config") {
		whole := object(t, s, name)
		for i := range whole {
			s.Overwrite(name, flipped(whole, i))
			_, err := volume.Open(t.Context(), s, id)
			unknown(t, fmt.Sprintf("%s with byte %d flipped", name, i), err)
			s.Overwrite(name, whole[:i])
			_, err = volume.Open(t.Context(), s, id)
			unknown(t, fmt.Sprintf("%s cut at %d", name, i), err)
		}
		s.Overwrite(name, whole)
	}
	if _, err := volume.Open(t.Context(), s, id); err != nil {
		t.Errorf("after mending: %v", err)
	}
}

func flipped(data []byte, i int) []byte {
	b := bytes.Clone(data)
	b[i] ^= 1 << (i % 8)
	return b
}

func TestDocuments(t *testing.T) {
	ctx, s := t.Context(), storetest.NewMemory()
	id := newIdentity(t)
	v, err := volume.Create(ctx, s, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"shop/a", "shop/b", "other/ü\n", strings.Repeat("x", 4096)}
	for _, name := range names {
		if err := v.PutDocument(ctx, "restorepoint", name, []byte("data of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.PutDocument(ctx, "residual", "shop/a", nil); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "writing again", v.PutDocument(ctx, "restorepoint", "shop/a", []byte("other")), volume.ErrDocumentExists)

	if v, err = volume.Open(ctx, s, id); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if d, err := v.Document(ctx, "restorepoint", name); err != nil || d.Name != name || string(d.Data) != "data of "+name {
			t.Errorf("Document(%q) = %+v, %v", name, d, err)
		}
	}
	for _, c := range [][2]string{{"restorepoint", "shop/c"}, {"residual", "shop/b"}, {"nothing", "shop/a"}} {
		_, err := v.Document(ctx, c[0], c[1])
		wantErr(t, c[1], err, volume.ErrDocumentNotFound)
	}
	for prefix, want := range map[string]int{"": 4, "shop/": 2, "shop/b": 1, "none": 0} {
		if all, err := v.Documents(ctx, "restorepoint", prefix); err != nil || len(all) != want {
			t.Errorf("Documents(%q): %d, %v; want %d", prefix, len(all), err, want)
		}
	}
	all, err := v.Documents(ctx, "restorepoint", "shop/")
	if err != nil || all[0].Name != "shop/a" || all[1].Name != "shop/b" || all[0].Kind != "restorepoint" {
		t.Errorf("Documents are not sorted: %v, %v", all, err)
	}
	for _, name := range []string{"", "\xff", strings.Repeat("x", 4097)} {
		if err := v.PutDocument(ctx, "restorepoint", name, nil); err == nil {
			t.Errorf("wrote a document named %q", name)
		}
	}
	for _, kind := range []string{"", "A", "a/b", "../x", strings.Repeat("k", 41)} {
		if err := v.PutDocument(ctx, kind, "x", nil); err == nil {
			t.Errorf("wrote a document of kind %q", kind)
		}
	}
	if err := v.PutDocument(ctx, "big", "x", make([]byte, volume.MaxDocument+1)); err == nil {
		t.Error("wrote a document that is too large")
	}
	for _, object := range s.Names() {
		data, err := s.Get(ctx, object, 0, -1)
		if err != nil || bytes.Contains(data, []byte("shop")) || strings.Contains(object, "shop") {
			t.Errorf("object %q tells a name, %v", object, err)
		}
	}
}

// A listing of documents is complete or an error, and absence is only claimed by a store that has the vault.
func TestDocumentsFailClosed(t *testing.T) {
	ctx, s := t.Context(), storetest.NewMemory()
	v := newVault(t, s)
	for i := range 5 {
		if err := v.PutDocument(ctx, "point", fmt.Sprint(i), []byte("data")); err != nil {
			t.Fatal(err)
		}
	}
	s.SetFaults(storetest.On(storetest.List, "", storetest.Fault{Err: store.ErrUnavailable, Keep: 3}))
	all, err := v.Documents(ctx, "point", "")
	unknown(t, "listing that is cut", err)
	if len(all) > 0 {
		t.Errorf("listing that is cut returned %d documents", len(all))
	}
	for _, fault := range []error{store.ErrUnavailable, store.ErrDenied} {
		s.SetFaults(failing(storetest.Get, "documents/", fault))
		_, err = v.Documents(ctx, "point", "")
		unknown(t, "listing of what cannot be read", err)
		_, err = v.Document(ctx, "point", "1")
		unknown(t, "document that cannot be read", err)
	}
	s.SetFaults(failing(storetest.Get, "config", store.ErrUnavailable))
	_, err = v.Document(ctx, "point", "none")
	unknown(t, "absence that cannot be confirmed", err)
	s.SetFaults(nil)

	objects := documentsOf(s)
	first, second := object(t, s, objects[0]), object(t, s, objects[1])
	for i := range first {
		s.Overwrite(objects[0], flipped(first, i))
		_, err := v.Documents(ctx, "point", "4")
		unknown(t, "altered document", err)
		wantErr(t, "altered document", err, volume.ErrDamaged)
	}
	s.Overwrite(objects[0], second)
	_, err = v.Documents(ctx, "point", "")
	wantErr(t, "document in the place of another", err, volume.ErrDamaged)
	s.Overwrite(objects[0], first)
	s.Overwrite("documents/other/"+strings.TrimPrefix(objects[0], "documents/point/"), first)
	_, err = v.Documents(ctx, "other", "")
	wantErr(t, "document of another kind", err, volume.ErrDamaged)
	s.Overwrite("documents/point/garbage", []byte("x"))
	_, err = v.Documents(ctx, "point", "")
	wantErr(t, "garbage", err, volume.ErrDamaged)

	// A store that lost everything, or shows another vault, does not prove anything about this one.
	empty := storetest.NewMemory()
	lost := newVault(t, empty)
	for _, name := range empty.Names() {
		if err := empty.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, state := range []string{"lost", "replaced"} {
		_, err = lost.Document(ctx, "point", "1")
		unknown(t, "document of a vault that was "+state, err)
		_, err = lost.Documents(ctx, "point", "")
		unknown(t, "documents of a vault that was "+state, err)
		_, err = lost.Snapshots(ctx)
		unknown(t, "snapshots of a vault that was "+state, err)
		_, err = lost.Snapshot(ctx, strings.Repeat("0", 32))
		unknown(t, "snapshot of a vault that was "+state, err)
		if state == "lost" {
			newVault(t, empty)
		}
	}
}

func documentsOf(s *storetest.Memory) (names []string) {
	for _, name := range s.Names() {
		if strings.HasPrefix(name, "documents/point/") {
			names = append(names, name)
		}
	}
	return names
}

func object(t *testing.T, s store.Store, name string) []byte {
	t.Helper()
	data, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func objects(s *storetest.Memory, prefix string) []string {
	return slices.DeleteFunc(s.Names(), func(name string) bool { return !strings.HasPrefix(name, prefix) })
}

package volume_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func keysOf(t *testing.T, v *volume.Vault) []volume.Key {
	t.Helper()
	keys, err := v.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestKeys(t *testing.T) {
	ctx, s := t.Context(), storetest.NewMemory()
	alice, bob := newIdentity(t), newIdentity(t)
	v, err := volume.Create(ctx, s, alice.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	first := keysOf(t, v)
	if len(first) != 1 || first[0].Recipient != alice.Recipient().String() || first[0].Created.IsZero() {
		t.Fatalf("keys of a new vault: %+v", first)
	}
	wantErr(t, "removing the only key", v.RemoveKey(ctx, first[0].ID), volume.ErrLastKey)
	wantErr(t, "removing a key that is none", v.RemoveKey(ctx, strings.Repeat("0", 32)), volume.ErrKeyNotFound)

	added, err := v.AddKey(ctx, bob.Recipient(), bob.Recipient().String(), "of Bob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := volume.Open(ctx, s, bob); err != nil {
		t.Errorf("the new key: %v", err)
	}
	for _, k := range keysOf(t, v) {
		if k.ID == added.ID && cmp.Diff(added, k) != "" {
			t.Errorf("the new key is listed with\n%s", cmp.Diff(added, k))
		}
	}
	if err := v.RemoveKey(ctx, first[0].ID); err != nil {
		t.Fatal(err)
	}
	_, err = volume.Open(ctx, s, alice)
	wantErr(t, "opening with a key that was removed", err, volume.ErrWrongKey)
	if left := keysOf(t, v); len(left) != 1 || left[0].ID != added.ID {
		t.Errorf("left %+v", left)
	}
	for _, name := range s.Names() {
		if strings.Contains(string(object(t, s, name)), bob.Recipient().String()) {
			t.Errorf("object %q tells the recipient", name)
		}
	}
}

// A key object that nothing describes, as a creator leaves that lost a race, does not count as one that opens the vault.
func TestStrangersKeyIsNotTheLast(t *testing.T) {
	ctx, s := t.Context(), storetest.NewMemory()
	v := newVault(t, s)
	other := storetest.NewMemory()
	newVault(t, other)
	stranger := objects(other, "keys/")[0]
	s.Overwrite(stranger, object(t, other, stranger))
	for _, k := range keysOf(t, v) {
		if k.Recipient != "" {
			wantErr(t, "removing the last key", v.RemoveKey(ctx, k.ID), volume.ErrLastKey)
		} else if err := v.RemoveKey(ctx, k.ID); err != nil {
			t.Errorf("removing a stranger's key: %v", err)
		}
	}
	if n := len(objects(s, "keys/")); n != 1 {
		t.Errorf("%d keys left", n)
	}
}

// However two removals of the only two keys interleave, the vault can be opened.
func TestRemoveKeysAtOnce(t *testing.T) {
	for range 50 {
		s := storetest.NewMemory()
		ids := []age.Identity{newIdentity(t), newIdentity(t)}
		v, err := volume.Create(t.Context(), s, ids[0].(*age.X25519Identity).Recipient(), ids[1].(*age.X25519Identity).Recipient())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, k := range keysOf(t, v) {
			wg.Go(func() { _ = v.RemoveKey(t.Context(), k.ID) })
		}
		wg.Wait()
		if _, err := volume.Open(t.Context(), s, ids...); err != nil {
			t.Fatalf("%v; left %+v", err, keysOf(t, v))
		}
	}
}

// Two key objects of one vault that hold different master keys are refused, whichever comes first.
func TestTwoMasterKeys(t *testing.T) {
	for range 4 {
		s := storetest.NewMemory()
		id := newIdentity(t)
		v, err := volume.Create(t.Context(), s, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		name := "keys/" + strings.Repeat("0", 32)
		s.Overwrite(name, wrapped(t, "lockstep vault key 1\n"+v.ID()+strings.Repeat("x", 32), id.Recipient()))
		_, err = volume.Open(t.Context(), s, id)
		wantErr(t, "two master keys", err, volume.ErrDamaged)
	}
}

func wrapped(t *testing.T, plaintext string, r age.Recipient) []byte {
	t.Helper()
	var out strings.Builder
	w, err := age.Encrypt(&out, r)
	must(t, err)
	_, err = w.Write([]byte(plaintext))
	must(t, err)
	must(t, w.Close())
	return []byte(out.String())
}

// Rotation may be cut at any operation on the store: the vault opens with one of the keys, and rotation can be taken up again.
func TestRotationInterrupted(t *testing.T) {
	for _, crash := range []func(int) storetest.Faults{storetest.CrashBefore, storetest.CrashAfter} {
		for n := 1; ; n++ {
			s := storetest.NewMemory()
			old, fresh := newIdentity(t), newIdentity(t)
			v, err := volume.Create(t.Context(), s, old.Recipient())
			must(t, err)
			oldID := keysOf(t, v)[0].ID
			rotate := func(v *volume.Vault) error {
				if _, err := v.AddKey(t.Context(), fresh.Recipient(), "fresh", ""); err != nil {
					return err
				}
				return v.RemoveKey(t.Context(), oldID)
			}
			s.SetFaults(crash(n))
			err = rotate(v)
			s.SetFaults(nil)
			v, openErr := volume.Open(t.Context(), s, old, fresh)
			if openErr != nil {
				t.Fatalf("operation %d: %v", n, openErr)
			}
			if err == nil {
				break
			}
			verifies(t, v, fmt.Sprintf("operation %d", n))
			if err := rotate(v); err != nil {
				wantErr(t, fmt.Sprintf("operation %d: rotating again", n), err, volume.ErrKeyNotFound)
			}
			if _, err := volume.Open(t.Context(), s, fresh); err != nil {
				t.Errorf("operation %d: after rotating again: %v", n, err)
			}
			_, err = volume.Open(t.Context(), s, old)
			wantErr(t, fmt.Sprintf("operation %d: the old key", n), err, volume.ErrWrongKey)
		}
	}
}

// Creation may be cut at any operation too: there is no vault, or one that opens.
func TestCreateInterrupted(t *testing.T) {
	for _, crash := range []func(int) storetest.Faults{storetest.CrashBefore, storetest.CrashAfter} {
		for n := 1; ; n++ {
			s := storetest.NewMemory()
			alice, bob := newIdentity(t), newIdentity(t)
			s.SetFaults(crash(n))
			_, err := volume.Create(t.Context(), s, alice.Recipient(), bob.Recipient())
			s.SetFaults(nil)
			if err == nil {
				break
			}
			v, err := volume.Open(t.Context(), s, bob)
			if len(objects(s, "config")) == 0 {
				wantErr(t, fmt.Sprintf("operation %d", n), err, volume.ErrNoVault)
				v, err = volume.Create(t.Context(), s, bob.Recipient())
			}
			if err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
			if _, err := v.AddKey(t.Context(), alice.Recipient(), "alice", ""); err != nil {
				t.Errorf("operation %d: %v", n, err)
			}
			verifies(t, v, fmt.Sprintf("operation %d", n))
		}
	}
}

// A save needs nothing but the right to write once the vault was opened elsewhere.
func TestBootstrap(t *testing.T) {
	s := storetest.NewMemory()
	alice, bob, eve := newIdentity(t), newIdentity(t), newIdentity(t)
	v, err := volume.Create(t.Context(), s, alice.Recipient(), bob.Recipient())
	must(t, err)
	boot, err := v.Bootstrap(t.Context())
	must(t, err)
	s.SetFaults(nil)
	closed := storetest.Only(s)
	for _, id := range []age.Identity{alice, bob} {
		opened, err := volume.OpenBootstrap(closed, boot, id)
		if err != nil || opened.ID() != v.ID() {
			t.Errorf("opened %v, %v", opened, err)
		}
	}
	if n := s.Count(); n != 0 {
		t.Errorf("opening made %d requests", n)
	}
	_, err = volume.OpenBootstrap(closed, boot, eve)
	wantErr(t, "a stranger", err, volume.ErrWrongKey)
	for i := range boot {
		opened, err := volume.OpenBootstrap(closed, flipped(boot, i), alice)
		if err == nil && opened.ID() != v.ID() {
			t.Errorf("byte %d flipped opens another vault", i)
		}
		_, err = volume.OpenBootstrap(closed, boot[:i], alice)
		wantErr(t, fmt.Sprintf("cut at %d", i), err, volume.ErrDamaged)
	}
	if !json.Valid(boot) {
		t.Error("the bootstrap is not JSON")
	}
}

// What a store under retention does not delete is said so, and a key goes completely or not at all.
func TestRemoveKeyUnderRetention(t *testing.T) {
	s := storetest.NewMemory()
	id := newIdentity(t)
	v, err := volume.Create(t.Context(), s, id.Recipient(), newIdentity(t).Recipient())
	must(t, err)
	s.SetFaults(storetest.On(storetest.Delete, "", storetest.Fault{Err: store.ErrLocked}))
	before := keysOf(t, v)
	wantErr(t, "removing a key under retention", v.RemoveKey(t.Context(), before[0].ID), store.ErrLocked)
	if diff := cmp.Diff(before, keysOf(t, v)); diff != "" {
		t.Error(diff)
	}
	if _, err := v.Save(t.Context(), filepath.Dir(t.TempDir()), volume.SaveOptions{}); err != nil {
		t.Errorf("saving afterwards: %v", err)
	}
}

// Package volume saves directory trees into a Vault and loads them again: deduplicated, compressed, encrypted and
// verified. A Vault is a store.Store that holds objects of the format described in docs/vault-format.md. It also keeps
// small sealed documents, such as the records of restore points.
//
// Saving and loading need Linux; everything else works everywhere.
package volume

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// Vault is an open Vault. Its methods may be called from several goroutines at once.
type Vault struct {
	store  store.Store
	keys   keys
	codec  *codec
	config []byte // the config object, as read
	id     string
	budget budget // of all saves
	reread *atomic.Int64
	locks  *locks
}

// config is the first line of the config object; the second is its authentication code.
type config struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

const (
	configName   = "config"
	configFormat = "lockstep-vault"

	// maxSmall bounds objects that are read whole, other than packs.
	maxSmall = 64 << 20
	// parallel is how many requests to the store run at once, unless told otherwise.
	parallel = 8
)

// Create makes a Vault in an empty store, to be opened by any one of the recipients. It returns ErrVaultExists, and
// changes nothing, if the store holds one, and store.ErrCannotLock if it is to lock and cannot.
func Create(ctx context.Context, s store.Store, recipients ...age.Recipient) (*Vault, error) {
	if len(recipients) == 0 {
		return nil, errors.New("creating vault: no recipient given")
	}
	switch _, err := s.Stat(ctx, configName); {
	case err == nil:
		return nil, fmt.Errorf("creating vault: %w", ErrVaultExists)
	case !errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("creating vault: %w", err)
	}
	if l := (&Vault{store: s}).locker(); l != nil {
		if err := l.CheckLock(ctx); err != nil {
			return nil, fmt.Errorf("creating vault: %w", err)
		}
	}
	id, master := randomName(), make([]byte, masterSize)
	rand.Read(master)
	v := newVault(s, id, master)
	if err := v.create(ctx, recipients); err != nil {
		return nil, fmt.Errorf("creating vault: %w", err)
	}
	return v, nil
}

// create writes the objects of a new Vault. The keys go first: whoever finds a config can open it. Of several creators the
// first to write its config wins, and the others' keys, which name another vault, are ignored for ever.
func (v *Vault) create(ctx context.Context, recipients []age.Recipient) error {
	keys := make([]keyObject, len(recipients))
	for i, r := range recipients {
		var err error
		if keys[i], err = newKey(v.id, v.keys.master, r); err != nil {
			return err
		}
		if err := v.store.Put(ctx, keys[i].Name, keys[i].Data); err != nil {
			return err
		}
	}
	var err error
	if v.config, err = v.newConfig(); err != nil {
		return err
	}
	switch err := v.store.Put(ctx, configName, v.config); {
	case errors.Is(err, store.ErrExists):
		return ErrVaultExists
	case err != nil:
		return err
	}
	for i, r := range recipients {
		d := keyDocument{Created: now()}
		if text, ok := r.(fmt.Stringer); ok {
			d.Recipient = text.String()
		}
		if err := v.describeKey(ctx, keys[i], d); err != nil {
			return err
		}
	}
	return nil
}

func newVault(s store.Store, id string, master []byte) *Vault {
	return &Vault{store: s, keys: newKeys(master), codec: newCodec(), id: id, reread: &atomic.Int64{}, locks: newLocks()}
}

// Open opens a Vault with whichever of the identities fits. It returns ErrNoVault if the store proves to hold none,
// ErrWrongKey if no identity fits, ErrDamaged if the config was altered.
func Open(ctx context.Context, s store.Store, identities ...age.Identity) (*Vault, error) {
	v, err := fetchAndOpen(ctx, s, identities)
	if damaged(err) || errors.Is(err, ErrWrongKey) { // to which a key that was altered on the way looks the same
		if v, err = fetchAndOpen(ctx, uncached(s), identities); err == nil {
			v.store = s
			v.reread.Add(1)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening vault: %w", err)
	}
	return v, nil
}

func fetchAndOpen(ctx context.Context, s store.Store, identities []age.Identity) (*Vault, error) {
	var data []byte
	var objects []keyObject
	err := both(ctx, func(ctx context.Context) (err error) {
		if data, err = s.Get(ctx, configName, 0, -1); errors.Is(err, store.ErrNotFound) {
			err = ErrNoVault
		}
		return err
	}, func(ctx context.Context) (err error) {
		objects, err = readKeys(ctx, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return open(s, data, objects, identities)
}

// open opens a Vault with this config and these key objects.
func open(s store.Store, data []byte, objects []keyObject, identities []age.Identity) (*Vault, error) {
	c, err := decodeConfig(data)
	if err != nil {
		return nil, err
	}
	master, err := openKeys(c.ID, objects, identities)
	if err != nil {
		return nil, err
	}
	v := newVault(s, c.ID, master)
	v.config = data
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if !hmac.Equal(data, v.signConfig(line)) {
		return nil, fmt.Errorf("object %q: %w: authentication failed", configName, ErrDamaged)
	}
	return v, nil
}

// ID is the Vault's random identity, 32 hexadecimal digits.
func (v *Vault) ID() string { return v.id }

func (v *Vault) newConfig() ([]byte, error) {
	line, err := json.Marshal(config{configFormat, version, v.id, now()})
	if err != nil {
		return nil, err
	}
	return v.signConfig(line), nil
}

// now is the time to the second, as the Vault's JSON has it.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// signConfig returns the config object: the line and its authentication code.
func (v *Vault) signConfig(line []byte) []byte {
	h := hmac.New(sha256.New, v.keys.config)
	h.Write(line)
	return fmt.Appendf(nil, "%s\n%x\n", line, h.Sum(nil))
}

func decodeConfig(data []byte) (config, error) {
	var c config
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if err := json.Unmarshal(line, &c); err != nil || c.Format != configFormat {
		return c, fmt.Errorf("object %q: %w: not the config of a vault", configName, ErrDamaged)
	}
	if c.Version != version {
		return c, fmt.Errorf("object %q: vault of version %d: this program knows version %d", configName, c.Version, version)
	}
	if !validID(c.ID) {
		return c, fmt.Errorf("object %q: %w: bad vault id %q", configName, ErrDamaged, c.ID)
	}
	return c, nil
}

// uncached returns the Vault without any cache of its store.
func (v *Vault) uncached() *Vault {
	return &Vault{store: uncached(v.store), keys: v.keys, codec: v.codec, config: v.config, id: v.id, reread: v.reread, locks: v.locks}
}

func uncached(s store.Store) store.Store {
	if cached, ok := s.(interface{ Uncached() store.Store }); ok {
		return cached.Uncached()
	}
	return s
}

// confirm returns an error unless the store still holds this very Vault. What is not found in a store that passes
// was proven absent, and not lost with the whole store.
func (v *Vault) confirm(ctx context.Context) error {
	err := v.sameConfig(ctx)
	if errors.Is(err, store.ErrNotFound) || damaged(err) {
		return fmt.Errorf("%w: it no longer holds the vault that was opened", store.ErrUnavailable)
	}
	return err
}

// sameConfig returns an error unless the config is still the one that the Vault was opened with.
func (v *Vault) sameConfig(ctx context.Context) error {
	_, err := twice(v, func(v *Vault) (struct{}, error) {
		data, err := v.store.Get(ctx, configName, 0, -1)
		if err == nil && !bytes.Equal(data, v.config) {
			err = fmt.Errorf("object %q: %w: it is not the one that the vault was opened with", configName, ErrDamaged)
		}
		return struct{}{}, err
	})
	return err
}

// put writes an object whose name nobody else has. Where the name is taken, the store did the request twice, the first one unheard: the same
// bytes are there, which are read back. Any others give store.ErrExists.
func (v *Vault) put(ctx context.Context, name string, data []byte) error {
	return v.putBy(ctx, v.store.Put, name, data)
}

// putFunc is a Put of a store.
type putFunc func(ctx context.Context, name string, data []byte) error

func (v *Vault) putBy(ctx context.Context, put putFunc, name string, data []byte) error {
	err := put(ctx, name, data)
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	there, getErr := v.store.Get(ctx, name, 0, -1)
	if getErr != nil {
		return fmt.Errorf("%w; reading what is there: %w", err, getErr)
	}
	if !bytes.Equal(there, data) {
		return err
	}
	return nil
}

func randomName() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// validID tells whether s is what randomName returns.
func validID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && hex.EncodeToString(b) == s
}

// list returns a whole listing, sorted by name, or an error.
func list(ctx context.Context, s store.Store, prefix string) ([]store.Info, error) {
	var infos []store.Info
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b store.Info) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return infos, nil
}

// getSmall reads an object whole that is expected to be small.
func (v *Vault) getSmall(ctx context.Context, info store.Info) ([]byte, error) {
	if info.Size > maxSmall {
		return nil, fmt.Errorf("object %q: %w: %d bytes are too many", info.Name, ErrDamaged, info.Size)
	}
	return v.store.Get(ctx, info.Name, 0, info.Size)
}

// each calls do for all items, several at once, until the first error.
func each[T any](ctx context.Context, items []T, do func(ctx context.Context, i int, item T) error) error {
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, item := range items {
		if groupCtx.Err() != nil {
			break
		}
		g.Go(func() error { return do(groupCtx, i, item) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// both does two things at once, of which neither needs the other. The error is that of the one that fails first.
func both(ctx context.Context, a, b func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a(ctx) })
	g.Go(func() error { return b(ctx) })
	return g.Wait()
}

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/pkg/volume"
	"github.com/lockstep-dr/lockstep/test/reader"
)

// A corpusCase makes a directory and saves it.
type corpusCase struct {
	name string
	keys int // one, if zero
	make func(ctx context.Context, g *generator) error
}

func cases() []corpusCase {
	return []corpusCase{
		{name: "empty", make: func(ctx context.Context, g *generator) error { return g.save(ctx, "", volume.SaveOptions{}) }},
		{name: "small-files", make: smallFiles},
		{name: "kinds", make: kinds},
		{name: "sparse", make: sparse},
		{name: "fixed", make: fixed},
		{name: "variable", make: variable},
		{name: "encodings", make: encodings},
		{name: "image", make: image},
		{name: "snapshots", make: snapshots},
		{name: "condemned", make: condemned},
		{name: "documents", make: documents},
		{name: "unread", make: unread},
		{name: "two-keys", keys: 2, make: smallFiles},
		{name: "added-key", make: addedKey},
	}
}

// random is the same in every run.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// prose is n bytes that compress well and do not repeat.
func prose(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, seed))
	words := strings.Fields("protectionpolicies restorepoints revisions kustomizations hydrating deployments applications residuals")
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))] + " start the moment their volumes are whole, and not one moment before that, ")
	}
	return b.Bytes()[:n]
}

func (g *generator) write(name string, data []byte) error {
	path := filepath.Join(g.source, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func smallFiles(ctx context.Context, g *generator) error {
	var errs []error
	for name, data := range map[string]string{"a": "", "a.b": "one", "a-b": "two\n", "dir/a": "three", "dir/deep/er/file": "four", "dir.x": "one",
		"\xff not utf-8": "five", "new\nline": "six", strings.Repeat("n", 255): "seven"} {
		errs = append(errs, g.write(name, []byte(data)))
	}
	errs = append(errs, g.write("cell", prose(64<<10, 1)), os.Mkdir(filepath.Join(g.source, "dir/empty"), 0o700))
	return errors.Join(append(errs, g.save(ctx, "", volume.SaveOptions{Labels: map[string]string{"app": "shop", "größe": "1 \"2\""}}))...)
}

func kinds(ctx context.Context, g *generator) error {
	in := func(name string) string { return filepath.Join(g.source, name) }
	err := errors.Join(
		g.write("file", []byte("data")), g.write("sub/other", []byte("other")),
		os.Chmod(in("file"), 0o640|os.ModeSetuid|os.ModeSetgid), os.Chmod(in("sub"), 0o777|os.ModeSticky), os.Chown(in("sub/other"), 1000, 4294967294),
		os.Chtimes(in("file"), time.Unix(0, 0), time.Unix(-1, 999999999)), os.Chtimes(in("sub/other"), time.Unix(0, 0), time.Unix(4102444800, 1)),
		unix.Lsetxattr(in("file"), "user.a", []byte("value\x00\xff"), 0), unix.Lsetxattr(in("file"), "user.empty", nil, 0),
		unix.Lsetxattr(in("sub"), "user.dir", []byte("x"), 0),
		unix.Lsetxattr(in("sub/other"), "system.posix_acl_access", acl(), 0),
		unix.Lsetxattr(in("sub/other"), "security.capability", []byte{0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0),
		os.Link(in("file"), in("sub/again")), os.Link(in("file"), in("z")),
		os.Symlink("../out/of here", in("link")), os.Symlink(strings.Repeat("t", 4000), in("long")), os.Link(in("link"), in("link2")),
		unix.Mkfifo(in("fifo"), 0o600), os.Link(in("fifo"), in("fifo2")),
		unix.Mknod(in("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(in("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))),
	)
	return errors.Join(err, g.save(ctx, "", volume.SaveOptions{}))
}

// acl is: the owner reads and writes, user 1001 and all others read.
func acl() []byte {
	none := []byte{0xff, 0xff, 0xff, 0xff}
	return bytes.Join([][]byte{{2, 0, 0, 0}, {1, 0, 6, 0}, none, {2, 0, 4, 0, 0xe9, 3, 0, 0}, {4, 0, 4, 0}, none, {16, 0, 4, 0}, none, {32, 0, 4, 0}, none}, nil)
}

// hole makes a file with these bytes at these offsets and nothing else.
func (g *generator) hole(name string, size int64, parts map[int64][]byte) error {
	f, err := os.Create(filepath.Join(g.source, name))
	if err != nil {
		return err
	}
	errs := []error{f.Truncate(size)}
	for at, data := range parts {
		_, err := f.WriteAt(data, at)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, f.Sync(), f.Close())...)
}

func sparse(ctx context.Context, g *generator) error {
	page := prose(4096, 2)
	return errors.Join(
		g.hole("all", 1<<20, nil),
		g.hole("small", 65536, map[int64][]byte{32768: page}),
		g.hole("fixed", 200<<20, map[int64][]byte{0: page, 1<<20 + 8192: page, 150 << 20: page, 64<<20 - 4096: append(page, page...)}),
		g.hole("zeros", 300<<10, map[int64][]byte{8192: make([]byte, 128<<10)}),
		g.write("allocated", make([]byte, 128<<10)),
		g.save(ctx, "", volume.SaveOptions{}),
	)
}

// fixed has a file with so many cells that their list goes into a chunk, and one with few.
func fixed(ctx context.Context, g *generator) error {
	var big []byte
	for len(big) < 72<<20 {
		n := len(big) / (64 << 10) * 7 % 5
		big = append(big, prose(64<<10, uint64(n))...)
	}
	return errors.Join(g.write("big", big[:72<<20]), g.write("pages", prose(3*64<<10+4096, 9)), g.save(ctx, "", volume.SaveOptions{}))
}

func variable(ctx context.Context, g *generator) error {
	text := prose(500_001, 5)
	return errors.Join(g.hole("sparse", 70<<20+1, map[int64][]byte{4096: text[:4096], 69 << 20: prose(100_000, 3), 70 << 20: {1}}),
		g.write("text", text), g.write("moved", append([]byte("in front "), text...)), g.write("just", prose(64<<10+1, 6)),
		g.save(ctx, "", volume.SaveOptions{}))
}

func encodings(ctx context.Context, g *generator) error {
	err := errors.Join(g.write("random", random(20_000)), g.write("s2", prose(25*4096, 7)), g.save(ctx, "", volume.SaveOptions{Compression: volume.CompressS2}))
	return errors.Join(err, g.write("zstd", prose(26*4096, 8)), g.save(ctx, "", volume.SaveOptions{Compression: volume.CompressZstd}))
}

func image(ctx context.Context, g *generator) error {
	return errors.Join(g.hole("disk", 8<<20, map[int64][]byte{0: prose(512, 1), 1 << 20: prose(150<<10, 2)}), g.save(ctx, "disk", volume.SaveOptions{}))
}

func snapshots(ctx context.Context, g *generator) error {
	pages := prose(1<<20, 1)
	err := errors.Join(g.write("pages", pages), g.write("log", prose(25*4096, 2)), g.write("old", []byte("old")),
		g.save(ctx, "", volume.SaveOptions{Labels: map[string]string{"n": "1"}}))
	copy(pages[300_000:], "changed")
	err = errors.Join(err, g.write("pages", pages), g.write("log", prose(30*4096, 2)), os.Remove(filepath.Join(g.source, "old")), g.write("new", []byte("new")),
		g.save(ctx, "", volume.SaveOptions{Labels: map[string]string{"n": "2"}}))
	return errors.Join(err, g.save(ctx, "", volume.SaveOptions{Labels: map[string]string{"n": "3"}}))
}

func documents(ctx context.Context, g *generator) error {
	return errors.Join(g.document(ctx, "point", "shop/2026-01-02", `{"a":1}`), g.document(ctx, "point", "ö\n", ""),
		g.document(ctx, "x-1", strings.Repeat("n", 4096), string(prose(5000, 1))))
}

func addedKey(ctx context.Context, g *generator) error {
	recipient, err := g.key("key2")
	if err != nil {
		return err
	}
	_, err = g.vault.AddKey(ctx, recipient, recipient.String(), "added later")
	return errors.Join(err, smallFiles(ctx, g))
}

// condemned is a Vault whose packs were copied to others and condemned, between the two steps of a prune.
func condemned(ctx context.Context, g *generator) error {
	err := errors.Join(g.write("kept", prose(4*64<<10, 1)), g.write("old", prose(2*64<<10, 2)), g.save(ctx, "", volume.SaveOptions{}),
		os.Remove(filepath.Join(g.source, "old")), g.save(ctx, "", volume.SaveOptions{}))
	if err != nil {
		return err
	}
	if err := g.vault.Forget(ctx, g.manifest.Snapshots[0].ID); err != nil {
		return err
	}
	g.manifest.Snapshots = g.manifest.Snapshots[1:]
	_, err = g.vault.Prune(ctx, volume.PruneOptions{Grace: time.Nanosecond, NoOtherSaves: true, MinLive: 1})
	return err
}

// unread is saved by one who may not read all of it.
func unread(ctx context.Context, g *generator) error {
	const nobody = 65534
	errs := []error{g.write("a", []byte("readable")), g.write("closed/file", []byte("hidden")), g.write("secret", []byte("hidden")),
		os.Chmod(filepath.Join(g.source, "closed"), 0), os.Chmod(filepath.Join(g.source, "secret"), 0), os.Chown(g.source, nobody, nobody)}
	err := filepath.WalkDir(g.dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
	entries, err2 := describe(g.source)
	if err := errors.Join(append(errs, err, err2, syscall.Setresuid(-1, nobody, -1))...); err != nil {
		return err
	}
	s, err := g.vault.Save(ctx, g.source, volume.SaveOptions{KeepGoing: true})
	if err := syscall.Setresuid(-1, 0, -1); err != nil {
		return err
	}
	if unreadable := (*volume.FileErrors)(nil); s == nil || !errors.As(err, &unreadable) {
		return errors.Join(errors.New("nothing was unreadable"), err)
	}
	entries = slices.DeleteFunc(entries, func(e reader.ManifestEntry) bool { return e.Path == "closed/file" })
	for i, e := range entries {
		if e.Path == "closed" || e.Path == "secret" {
			entries[i] = reader.ManifestEntry{Path: e.Path, Kind: "x"}
		}
	}
	g.manifest.Snapshots = append(g.manifest.Snapshots, reader.ManifestSnapshot{ID: s.ID, Content: s.Roots.Content.String(), Meta: s.Roots.Meta.String(),
		Entries: entries})
	return nil
}

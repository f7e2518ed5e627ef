package reader

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"filippo.io/age"
)

// A Report says what Check found in a Vault.
type Report struct {
	Vault   string `json:"vault"`
	Created string `json:"created"`

	Keys        int `json:"keys"`        // key objects that the identities open
	SealedKeys  int `json:"sealedKeys"`  // key objects for others
	ForeignKeys int `json:"foreignKeys"` // key objects of another Vault

	Packs     int    `json:"packs"`
	PackBytes uint64 `json:"packBytes"`
	Chunks    int    `json:"chunks"`     // different ones that are all right
	Condemned int    `json:"condemned"`  // packs that a condemned object names and that are still there
	NoIndex   int    `json:"noIndex"`    // packs that no index describes: their save died, or still runs
	NoPack    int    `json:"noPack"`     // packs that an index describes and that are gone
	Indexes   int    `json:"indexes"`    // index objects
	Documents int    `json:"documents"`  // document objects
	Needless  int    `json:"needless"`   // packs of which no snapshot needs a chunk
	Astray    int    `json:"astray"`     // files and chunks divided otherwise than writers should; no problem for a reader
	Lost      int    `json:"lostChunks"` // different chunks that a snapshot needs and that are missing or wrong

	Unknown   []string         `json:"unknown"` // objects that are none of the Vault's business
	Snapshots []SnapshotReport `json:"snapshots"`
	Problems  []string         `json:"problems"` // all of them, those of snapshots too
}

// A SnapshotReport says what of a snapshot was verified.
type SnapshotReport struct {
	ID      string            `json:"id"`
	Created string            `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Content string            `json:"content"`
	Meta    string            `json:"meta"`

	Entries int      `json:"entries"` // of every kind, the root too
	Files   int      `json:"files"`   // of which every byte was verified
	Bytes   uint64   `json:"bytes"`   // the sum of the sizes of these, holes included
	Changed int      `json:"changed"` // files that changed while they were read
	Unread  int      `json:"unread"`  // entries that could not be read
	Hurt    []string `json:"hurt"`    // paths of files that are not as the snapshot says
	Whole   bool     `json:"whole"`   // nothing is wrong with it
}

// Check opens every object of the Vault in dir and holds it against the page. The error has every problem found; the report goes as far as
// the Vault can be read.
func Check(dir string, identities ...age.Identity) (Report, error) {
	return CheckFS(os.DirFS(dir), identities...)
}

// CheckFS is Check for a Vault in any file system.
func CheckFS(store fs.FS, identities ...age.Identity) (Report, error) {
	v, err := Open(store, identities...)
	if err != nil {
		return Report{Problems: []string{err.Error()}}, err
	}
	c := &checker{v: v, verified: map[digest]bool{}, needed: map[digest]bool{}}
	c.report = Report{Vault: v.ID, Created: v.Created, Unknown: v.objects[""],
		Keys:       len(v.objects["keys"]) - len(v.sealedKeys) - len(v.foreignKeys),
		SealedKeys: len(v.sealedKeys), ForeignKeys: len(v.foreignKeys)}
	g := gear(derive(v.master, nil, "chunker"))
	v.used = func(id digest) { c.needed[id] = true }
	v.seen = func(data []byte, last bool) {
		if n := cut(&g, data); n != len(data) || !last && n < maxCut && cut(&g, append(bytes.Clone(data), 0)) != n {
			c.report.Astray++
		}
	}
	c.packs()
	c.indexes()
	c.documents()
	c.condemned()
	c.snapshots()
	c.needless()
	return c.report, errors.Join(c.problems...)
}

type checker struct {
	v        *Vault
	report   Report
	problems []error
	verified map[digest]bool // files, by what their records say of them
	needed   map[digest]bool // ids of chunks
}

func (c *checker) problem(err error) {
	if err != nil {
		c.problems = append(c.problems, err)
		c.report.Problems = append(c.report.Problems, err.Error())
	}
}

func (c *checker) packs() {
	for _, err := range c.v.readPacks(true) {
		c.problem(err)
	}
	c.report.Packs, c.report.Chunks = len(c.v.packs), len(c.v.chunks)
	for _, p := range c.v.packs {
		c.report.PackBytes += uint64(p.size)
	}
}

// indexes holds the indexes against the footers.
func (c *checker) indexes() {
	described, gone := map[string]bool{}, map[string]bool{}
	for _, name := range c.v.objects["index"] {
		c.report.Indexes++
		data, err := c.v.openObject(name, typeIndex)
		if err != nil {
			c.problem(err)
			continue
		}
		err = decodeIndex(data, func(pack string, description []byte) error {
			described[pack] = true
			switch p := c.v.packs[pack]; {
			case p != nil && !bytes.Equal(p.description(), description):
				c.problem(fmt.Errorf("%s describes %s otherwise than its footer", name, pack))
			case p == nil && !slices.Contains(c.v.objects["packs"], pack):
				gone[pack] = true
			}
			return nil
		})
		if err != nil {
			c.problem(fmt.Errorf("decoding %s: %w", name, err))
		}
	}
	c.report.NoPack = len(gone)
	for name := range c.v.packs {
		if !described[name] {
			c.report.NoIndex++
		}
	}
}

// documents opens every document, and holds those of kind key against their key objects.
func (c *checker) documents() {
	for _, name := range c.v.objects["documents"] {
		c.report.Documents++
		d, err := c.v.document(name)
		if err != nil {
			c.problem(err)
			continue
		}
		if d.Kind == "key" {
			if err := c.keyDocument(d); err != nil {
				c.problem(fmt.Errorf("%s: %w", name, err))
			}
		}
	}
}

// keyDocument looks for the key object that a document is about: it was there before the document, and goes after it.
func (c *checker) keyDocument(d Document) error {
	key := "keys/" + d.Name
	if !slices.Contains(c.v.objects["keys"], key) {
		return fmt.Errorf("%q is no key object", key)
	}
	fields, err := object(d.Data, "recipient", "created", "sha256")
	if err != nil {
		return err
	}
	var sum string
	if err := json.Unmarshal(fields["sha256"], &sum); err != nil {
		return err
	}
	data, err := c.v.read(key, maxKey)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		return fmt.Errorf("%s is not the key object that it was", key)
	}
	return nil
}

func (c *checker) condemned() {
	packs := map[string]bool{}
	for _, name := range c.v.objects["condemned"] {
		names, err := c.v.condemned(name)
		c.problem(err)
		for _, pack := range names {
			if c.v.packs[pack] != nil {
				packs[pack] = true
			}
		}
	}
	c.report.Condemned = len(packs)
}

func (c *checker) snapshots() {
	for _, name := range c.v.objects["snapshots"] {
		s, err := c.v.snapshot(name)
		if err != nil {
			c.problem(err)
			continue
		}
		before := len(c.problems)
		r := SnapshotReport{ID: s.ID, Created: s.Created, Labels: s.Labels, Content: s.Content, Meta: s.Meta}
		if err := c.tree(s, &r); err != nil {
			c.problem(fmt.Errorf("%s: %w", name, err))
		}
		r.Whole = len(c.problems) == before
		c.report.Snapshots = append(c.report.Snapshots, r)
	}
	for id := range c.needed {
		if _, ok := c.v.chunks[id]; !ok {
			c.report.Lost++
		}
	}
}

// tree walks the tree, and once more if there are hard links, to see what they name.
func (c *checker) tree(s *Snapshot, r *SnapshotReport) error {
	links := map[string]string{} // target → path of a link
	err := c.v.Walk(s, func(e *Entry) error {
		r.Entries++
		switch e.Kind {
		case File:
			c.file(s, e, r)
		case Hardlink:
			links[e.Target] = e.Path
		case Unread:
			r.Unread++
		}
		return nil
	})
	if err != nil || len(links) == 0 {
		return err
	}
	err = c.v.Walk(s, func(e *Entry) error {
		switch e.Kind {
		case File, Symlink, FIFO, CharDev, BlockDev:
			delete(links, e.Path)
		}
		return nil
	})
	for target, path := range links {
		c.problem(fmt.Errorf("snapshots/%s: %q is a hard link to %q, which is no entry that has other names", s.ID, path, target))
	}
	return err
}

// file verifies every byte of a file, unless those of one with the same chunks have been.
func (c *checker) file(s *Snapshot, e *Entry, r *SnapshotReport) {
	if e.Changed {
		r.Changed++
	}
	if f := e.content.form; f != 0 && f != form(e.Size) {
		c.report.Astray++
	}
	key := hash(fmt.Appendf(nil, "%d %s", e.Size, e.content.raw))
	if !c.verified[key] {
		if err := c.v.Content(e, func(uint64, []byte) error { return nil }); err != nil {
			r.Hurt = append(r.Hurt, e.Path)
			c.problem(fmt.Errorf("snapshots/%s: %q: %w", s.ID, e.Path, err))
			return
		}
		c.verified[key] = true
	}
	r.Files++
	r.Bytes += e.Size
}

// needless counts the packs of which no snapshot needs a chunk.
func (c *checker) needless() {
	for _, p := range c.v.packs {
		if !slices.ContainsFunc(p.entries, func(e entry) bool { return c.needed[e.id] }) {
			c.report.Needless++
		}
	}
}

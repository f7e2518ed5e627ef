package reader

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zeebo/blake3"
)

// A Snapshot is one saved tree.
type Snapshot struct {
	ID      string
	Created string
	Labels  map[string]string
	Content string // the content root, hexadecimal
	Meta    string // the metadata root, hexadecimal
	Image   bool
	Stats   json.RawMessage

	table []digest
}

// Snapshots returns all snapshots, sorted by name.
func (v *Vault) Snapshots() ([]*Snapshot, error) {
	var all []*Snapshot
	for _, name := range v.objects["snapshots"] {
		s, err := v.snapshot(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (v *Vault) snapshot(name string) (*Snapshot, error) {
	data, err := v.openObject(name, typeSnapshot)
	if err != nil {
		return nil, err
	}
	s, err := decodeSnapshot(data)
	if err != nil {
		return nil, fmt.Errorf("decoding %s: %w", name, err)
	}
	if name != "snapshots/"+s.ID {
		return nil, fmt.Errorf("%s has the id %q", name, s.ID)
	}
	return s, nil
}

func decodeSnapshot(data []byte) (*Snapshot, error) {
	fields, err := object(data, "id", "created", "roots", "tree")
	if err != nil {
		return nil, err
	}
	roots, err := object(fields["roots"], "content", "meta")
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	if stats, ok := fields["stats"]; ok {
		if _, err := object(stats); err != nil {
			return nil, fmt.Errorf("stats: %w", err)
		}
	}
	s := &Snapshot{Stats: fields["stats"]}
	var tree []string
	err = errors.Join(json.Unmarshal(fields["id"], &s.ID), json.Unmarshal(fields["created"], &s.Created),
		json.Unmarshal(roots["content"], &s.Content), json.Unmarshal(roots["meta"], &s.Meta), json.Unmarshal(fields["tree"], &tree),
		optional(fields["labels"], &s.Labels), optional(fields["image"], &s.Image))
	if err != nil {
		return nil, err
	}
	if _, err := time.Parse(time.RFC3339, s.Created); err != nil {
		return nil, err
	}
	if _, ok := fields["image"]; ok && !s.Image {
		return nil, errors.New("image: not true")
	}
	for _, root := range []string{s.Content, s.Meta} {
		if _, err := unhex(root, 32); err != nil {
			return nil, fmt.Errorf("roots: %w", err)
		}
	}
	for _, h := range tree {
		d, err := unhex(h, 32)
		if err != nil {
			return nil, fmt.Errorf("tree: %w", err)
		}
		s.table = append(s.table, digest(d))
	}
	if len(s.table) == 0 {
		return nil, errors.New("tree: empty")
	}
	return s, nil
}

func optional(data json.RawMessage, to any) error {
	if data == nil {
		return nil
	}
	return json.Unmarshal(data, to)
}

// A segment is a chunk of the tree's records.
type segment struct {
	chunk digest
	path  string // of its first record
}

func (v *Vault) segments(s *Snapshot) ([]segment, error) {
	var table []byte
	for _, d := range s.table {
		data, err := v.chunk(d)
		if err != nil {
			return nil, fmt.Errorf("the table of segments: %w", err)
		}
		table = append(table, data...)
	}
	all, err := decodeTable(table)
	if err != nil {
		return nil, fmt.Errorf("the table of segments: %w", err)
	}
	return all, nil
}

func decodeTable(table []byte) ([]segment, error) {
	var all []segment
	c := cursor{rest: table}
	for len(c.rest) > 0 {
		s := segment{c.digest(), string(c.bytes())}
		switch {
		case c.err != nil:
			return nil, c.err
		case len(all) == 0 && s.path != "":
			return nil, fmt.Errorf("begins at %q, not at the root", s.path)
		case len(all) > 0 && !before(all[len(all)-1].path, s.path):
			return nil, fmt.Errorf("%q does not come behind %q", s.path, all[len(all)-1].path)
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("empty")
	}
	return all, nil
}

// before compares paths in the order of trees, name by name: no byte of a name is as small as what divides names.
func before(a, b string) bool {
	return strings.ReplaceAll(a, "/", "\x00") < strings.ReplaceAll(b, "/", "\x00")
}

// A Document is one small document.
type Document struct {
	Object, Kind, Name string
	Data               []byte
}

// Documents returns all documents, sorted by their objects' names.
func (v *Vault) Documents() ([]Document, error) {
	var all []Document
	for _, object := range v.objects["documents"] {
		d, err := v.document(object)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

func (v *Vault) document(object string) (Document, error) {
	content, err := v.openObject(object, typeDocument)
	if err != nil {
		return Document{}, err
	}
	c := cursor{rest: content}
	d := Document{Object: object, Kind: strings.Split(object, "/")[1], Name: string(c.bytes())}
	d.Data = c.all()
	if c.err != nil {
		return Document{}, fmt.Errorf("decoding %s: %w", object, c.err)
	}
	if d.Name == "" || len(d.Name) > 4096 || !utf8.ValidString(d.Name) {
		return Document{}, fmt.Errorf("%s holds a document of the name %q", object, d.Name)
	}
	h, err := blake3.NewKeyed(v.keys.documentName)
	if err != nil {
		return Document{}, err
	}
	h.Write([]byte(d.Kind + "\x00" + d.Name))
	if want := fmt.Sprintf("documents/%s/%x", d.Kind, h.Sum(nil)); object != want {
		return Document{}, fmt.Errorf("%s holds a document of another name", object)
	}
	return d, nil
}

// condemned returns the packs that a condemned object names.
func (v *Vault) condemned(name string) ([]string, error) {
	content, err := v.openObject(name, typeCondemned)
	if err != nil {
		return nil, err
	}
	if len(content)%16 != 0 {
		return nil, fmt.Errorf("%s: %d bytes are no names of packs", name, len(content))
	}
	var packs []string
	for ; len(content) > 0; content = content[16:] {
		packs = append(packs, packName(content[:16]))
	}
	return packs, nil
}

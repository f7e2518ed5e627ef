package reader

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A Manifest says what the snapshots of a Vault must hold. It was written down, from the directories themselves, when the Vault was made.
type Manifest struct {
	Snapshots []ManifestSnapshot `json:"snapshots"` // in the order they were made
	Documents []ManifestDocument `json:"documents,omitempty"`
}

// A ManifestSnapshot is one saved tree.
type ManifestSnapshot struct {
	ID      string            `json:"id"`
	Labels  map[string]string `json:"labels,omitempty"`
	Image   bool              `json:"image,omitempty"`
	Content string            `json:"content"` // roots, hexadecimal
	Meta    string            `json:"meta"`
	Entries []ManifestEntry   `json:"entries"`
}

// A ManifestEntry is one entry of a tree. Texts are quoted as in Go, without the quotes, as names need not be UTF-8.
type ManifestEntry struct {
	Path    string            `json:"path"`
	Kind    string            `json:"kind"`
	Mode    string            `json:"mode,omitempty"` // octal
	UID     uint32            `json:"uid,omitempty"`
	GID     uint32            `json:"gid,omitempty"`
	ModTime string            `json:"modTime,omitempty"`
	Xattrs  map[string]string `json:"xattrs,omitempty"`
	Size    uint64            `json:"size,omitempty"`
	SHA256  string            `json:"sha256,omitempty"`
	Data    [][2]uint64       `json:"data,omitempty"` // from, to: what is no hole, of files that have holes
	Target  string            `json:"target,omitempty"`
	Major   uint32            `json:"major,omitempty"`
	Minor   uint32            `json:"minor,omitempty"`
}

// A ManifestDocument is one document.
type ManifestDocument struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Data string `json:"data"`
}

// ReadManifest reads the file manifest.json in dir.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("decoding the manifest: %w", err)
	}
	return m, nil
}

// Describe reads a snapshot and says of it what a manifest would.
func (v *Vault) Describe(s *Snapshot) (ManifestSnapshot, error) {
	m := ManifestSnapshot{ID: s.ID, Labels: maps.Clone(s.Labels), Image: s.Image, Content: s.Content, Meta: s.Meta}
	err := v.Walk(s, func(e *Entry) error {
		d, err := v.describe(e)
		m.Entries = append(m.Entries, d)
		return err
	})
	return m, err
}

func (v *Vault) describe(e *Entry) (ManifestEntry, error) {
	m := ManifestEntry{Path: Quote(e.Path), Kind: string(e.Kind), Target: Quote(e.Target), Major: e.Major, Minor: e.Minor, Size: e.Size}
	if e.Kind == Hardlink || e.Kind == Unread {
		return m, nil
	}
	m.Mode, m.UID, m.GID = fmt.Sprintf("%04o", e.Mode), e.UID, e.GID
	m.ModTime = time.Unix(e.Sec, int64(e.Nsec)).UTC().Format(time.RFC3339Nano)
	for _, x := range e.Xattrs {
		if m.Xattrs == nil {
			m.Xattrs = map[string]string{}
		}
		m.Xattrs[x.Name] = Quote(string(x.Value))
	}
	if e.Kind != File {
		return m, nil
	}
	var data [][2]uint64
	h, at, blank := sha256.New(), uint64(0), make([]byte, cellSize)
	fill := func(to uint64) {
		for ; at < to; at += min(to-at, cellSize) {
			h.Write(blank[:min(to-at, cellSize)])
		}
	}
	err := v.Content(e, func(offset uint64, part []byte) error {
		end := offset + uint64(len(part))
		if n := len(data); n > 0 && data[n-1][1] == offset {
			data[n-1][1] = end
		} else {
			data = append(data, [2]uint64{offset, end})
		}
		fill(offset)
		h.Write(part)
		at = end
		return nil
	})
	fill(e.Size)
	m.SHA256 = hex.EncodeToString(h.Sum(nil))
	m.Data = Sparse(data, e.Size)
	return m, err
}

// Sparse is data, or nothing if that is all of a file of the size.
func Sparse(data [][2]uint64, size uint64) [][2]uint64 {
	switch {
	case size == 0 || len(data) == 1 && data[0] == [2]uint64{0, size}:
		return nil
	case data == nil:
		return [][2]uint64{{0, 0}}
	}
	return data
}

// Quote is a text as a manifest has it.
func Quote(s string) string {
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
}

package render

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"
	"sync"
)

// Files are those of a commit without links that are written into its root only when they are wanted there.
type Files interface {
	// Names are the paths of all files, relative to the root, with slashes, in the order of filepath.WalkDir.
	Names() []string
	// Hashes are those of their contents.
	Hashes() map[string]string
	// Read gives the first bytes of a file, at most so many, wherever it is.
	Read(name string, most int64) ([]byte, error)
	// Bring writes out files with the directories that they lie in; what there is not is left out. Several may call it at once.
	Bring(names ...string) error
}

// Blobs are what was found in files, by their contents: what several commits share is read and parsed once.
type Blobs struct {
	sum func(size int64) hash.Hash
	// known are maps by what is known.
	known sync.Map
}

// NewBlobs takes what hashes the content of a file of so many bytes, in the way of the hashes that commits bring along.
func NewBlobs(sum func(size int64) hash.Hash) *Blobs { return &Blobs{sum: sum} }

// contents are for commits of which all files are there.
func contents() *Blobs { return NewBlobs(func(int64) hash.Hash { return sha256.New() }) }

func (b *Blobs) hash(data []byte) string {
	sum := b.sum(int64(len(data)))
	_, _ = sum.Write(data)
	return hex.EncodeToString(sum.Sum(nil))
}

// hashFile hashes a file on disk, of whatever size.
func (b *Blobs) hashFile(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	sum := b.sum(info.Size())
	_, err = io.Copy(sum, file)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// finding is under way, or over.
type finding[T any] struct{ result func() (T, error) }

// known gives what is known of a content, and finds it if nobody has, or waits for who does. It must not be changed. Errors are not kept.
func known[T any](b *Blobs, what, content string, find func() (T, error)) (T, error) {
	of, ok := b.known.Load(what)
	if !ok {
		of, _ = b.known.LoadOrStore(what, new(sync.Map))
	}
	contents := of.(*sync.Map)
	begun, others := contents.Load(content)
	if !others {
		begun, others = contents.LoadOrStore(content, &finding[T]{sync.OnceValues(find)})
	}
	found, err := begun.(*finding[T]).result()
	if err == nil {
		return found, nil
	}
	contents.CompareAndDelete(content, begun)
	if others {
		return find() // what they failed at may be theirs
	}
	return found, err
}

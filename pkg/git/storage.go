package git

import (
	"errors"
	"runtime"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// storage is what a repository holds. It is for one goroutine.
type storage struct {
	*filesystem.Storage
	cached  cache.FileSize
	options filesystem.Options
	// readers are storages of the same objects for those who read beside one another; nil for one that nobody has needed yet.
	readers chan *filesystem.Storage
}

// maxReaders bounds the packs that are open: each reader has its own.
const maxReaders = 8

func newStorage(fs billy.Filesystem, cached cache.FileSize, o filesystem.Options) *storage {
	s := &storage{cached: cached, options: o}
	s.Storage = filesystem.NewStorageWithOptions(fs, cache.NewObjectLRU(cached), o)
	s.readers = make(chan *filesystem.Storage, min(runtime.GOMAXPROCS(0), maxReaders))
	for range cap(s.readers) {
		s.readers <- nil
	}
	return s
}

// beside lends one of the readers, and waits until there is one.
func (s *storage) beside(read func(*filesystem.Storage) error) error {
	reader := <-s.readers
	defer func() { s.readers <- reader }()
	if reader == nil {
		reader = filesystem.NewStorageWithOptions(s.Filesystem(), cache.NewObjectLRU(s.cached), s.options)
	}
	return read(reader)
}

// Close closes all but what somebody is still reading.
func (s *storage) Close() error {
	err := s.Storage.Close()
	for range cap(s.readers) {
		select {
		case reader := <-s.readers:
			if reader != nil {
				err = errors.Join(err, reader.Close())
			}
			s.readers <- nil
		default:
		}
	}
	return err
}

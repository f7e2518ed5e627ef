package git

import (
	"errors"
	"runtime"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// storage is what a repository holds. It is for one goroutine.
type storage struct {
	*filesystem.Storage
	cached  cache.FileSize
	options filesystem.Options
	// lenders are those that it borrows objects from. go-git knows them, too, and opens them anew for each object.
	lenders []*storage
	// readers are storages of the same objects for those who read beside one another; nil for one that nobody has needed yet.
	readers chan *storage
}

// maxReaders bounds the packs that are open: each reader has its own.
const maxReaders = 8

// maxLenders bounds how deep they borrow, as Git does.
const maxLenders = 5

func newStorage(fs billy.Filesystem, cached cache.FileSize, o filesystem.Options) *storage {
	s := openStorage(fs, cached, o, 0)
	s.readers = make(chan *storage, min(runtime.GOMAXPROCS(0), maxReaders))
	for range cap(s.readers) {
		s.readers <- nil
	}
	return s
}

func openStorage(fs billy.Filesystem, cached cache.FileSize, o filesystem.Options, depth int) *storage {
	s := &storage{Storage: filesystem.NewStorageWithOptions(fs, cache.NewObjectLRU(cached), o), cached: cached, options: o}
	if o.AlternatesFS == nil || depth == maxLenders {
		return s
	}
	lenders, err := dotgit.NewWithOptions(fs, dotgit.Options{AlternatesFS: o.AlternatesFS}).Alternates()
	if err != nil {
		return s // it has none, or who asks for an object is told
	}
	for _, lender := range lenders {
		s.lenders = append(s.lenders, openStorage(lender.Fs(), cached, o, depth+1))
	}
	return s
}

// EncodedObject gives an object, wherever it lies.
func (s *storage) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	for _, lender := range s.lenders {
		if found, err := lender.EncodedObject(kind, hash); err == nil {
			return found, nil
		}
	}
	return s.Storage.EncodedObject(kind, hash)
}

// beside lends one of the readers, and waits until there is one.
func (s *storage) beside(read func(storer.EncodedObjectStorer) error) error {
	reader := <-s.readers
	defer func() { s.readers <- reader }()
	if reader == nil {
		reader = openStorage(s.Filesystem(), s.cached, s.options, 0)
	}
	return read(reader)
}

// Close closes all but what somebody is still reading.
func (s *storage) Close() error {
	err := s.Storage.Close()
	for _, lender := range s.lenders {
		err = errors.Join(err, lender.Close())
	}
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

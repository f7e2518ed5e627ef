// Package store defines where a Vault's bytes live: a flat space of named, write-once objects.
//
// The interface is as small as the data engine allows, so that a backend is easy to get right and any object store
// or filesystem can serve. Every backend passes the suite in the package storetest.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// The ways in which a store refuses. Match them with errors.Is. An error that matches none of them is either the
// context's or a misuse of the interface; like ErrUnavailable it says nothing about what the store holds.
var (
	// ErrNotFound says that the store answered and the object does not exist. Nothing else may be reported as
	// ErrNotFound: callers conclude from it that data is proven absent.
	ErrNotFound = errors.New("object not found")
	// ErrExists says that the name is taken. The object under that name is unchanged.
	ErrExists = errors.New("object already exists")
	// ErrUnavailable says that the store could not be asked or did not answer properly: unreachable, timed out,
	// failing, missing as a whole, or cut short. What it holds is unknown.
	ErrUnavailable = errors.New("store unavailable")
	// ErrDenied says that the store refused the credentials or the action. What it holds is unknown.
	ErrDenied = errors.New("access denied by the store")
	// ErrLocked says that the store's retention forbids to delete the object, whoever asks. It is unchanged.
	ErrLocked = errors.New("retention forbids deletion")
)

// Info describes one object.
type Info struct {
	Name string
	Size int64 // bytes
	// Modified is when the object was written, by the store's clock.
	Modified time.Time
}

// Store holds write-once objects. Its methods may be called from several goroutines at once, honour the context,
// and return errors that match those of this package. Names must satisfy CheckName.
type Store interface {
	// Put writes a new object. It is atomic (nobody ever sees a part of it), durable when Put returns nil, and
	// write-once: a taken name gives ErrExists and leaves the object as it was. After any other error the object may
	// or may not exist, but never in part. Put does not keep or change data.
	Put(ctx context.Context, name string, data []byte) error

	// Get returns length bytes from offset off, or everything from off on if length is negative. It never returns
	// fewer bytes than asked for without an error; an object that ends too early gives io.ErrUnexpectedEOF, and so does
	// an offset other than 0 at its end.
	Get(ctx context.Context, name string, off, length int64) ([]byte, error)

	// Stat describes an object, or returns ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields every object whose name begins with prefix, in no particular order; an empty prefix yields all.
	// The listing is complete, or its last element is an error: one that was cut short never looks complete.
	// An object that is written or deleted while the listing runs may or may not appear.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object for good: nothing of it is left that would be paid for. Deleting what does not exist is not
	// an error. An object under retention gives ErrLocked.
	Delete(ctx context.Context, name string) error
}

// MaxName is the longest name, in bytes, that a store takes.
const MaxName = 512

// CheckName returns an error unless name is one that every backend can hold: up to MaxName bytes of a-z, 0-9, '-', '_',
// '.' and '/', whose parts between slashes are not empty, are at most 200 bytes long and do not begin with a dot.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("object name %q: length must be 1 to %d bytes", name, MaxName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > 200 {
			return fmt.Errorf("object name %q: bad part %q", name, part)
		}
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./", r)
	}) {
		return fmt.Errorf("object name %q: only a-z, 0-9, '-', '_', '.' and '/' are allowed", name)
	}
	return nil
}

// CheckRange returns an error if off is not a possible offset of a Get.
func CheckRange(name string, off int64) error {
	if off < 0 {
		return fmt.Errorf("object %q: negative offset %d", name, off)
	}
	return nil
}

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
	// ErrCannotLock says that the store cannot lock objects as it should. The message says how to mend it.
	ErrCannotLock = errors.New("the store cannot lock objects")
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

// Locker is a store that can lock objects: until a time nobody may delete them, whoever asks. Where Retention is not 0, Put locks
// what it writes, for at least that long, and Delete gives ErrLocked while the lock lasts. A lock is never shortened nor taken away.
type Locker interface {
	Store

	// Retention is for how long Put locks each object, at least; 0 if it locks none.
	Retention() time.Duration

	// CheckLock returns ErrCannotLock if the store is known not to lock as Retention says, or if its clock and that of this machine do not
	// agree, so that locks would end too early. It writes nothing.
	CheckLock(ctx context.Context) error

	// PutUnlocked is Put without a lock, for what is deleted soon.
	PutUnlocked(ctx context.Context, name string, data []byte) error

	// LockedUntil says until when an object is locked, as the store itself tells; the zero time is not at all, or not as strictly
	// as Put locks. It returns ErrNotFound if there is no such object.
	LockedUntil(ctx context.Context, name string) (time.Time, error)

	// Lock has an object locked until then, or longer, and returns what the store tells of it afterwards, which is never
	// earlier: if the store does not keep its word, that is ErrCannotLock. It returns ErrNotFound if there is no such object.
	Lock(ctx context.Context, name string, until time.Time) (time.Time, error)
}

// LockSpare is how much longer than asked for objects are locked, so that not every point that reuses them has to ask again.
func LockSpare(retention time.Duration) time.Duration { return retention / 10 }

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

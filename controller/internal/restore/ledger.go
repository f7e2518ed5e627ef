package restore

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// ledger is what a restore remembers of the objects that it has applied. It is all that is remembered instead of observed; to
// forget it only means to apply them again.
type ledger struct {
	mu      sync.Mutex
	applied map[object.Key]bool
	// usable are the applied definitions whose kinds are served.
	usable  map[object.Key]bool
	refused map[object.Key]refusal
}

// refusal is why an object was not taken.
type refusal struct {
	err   error
	tries int
	last  time.Time
}

func newLedger() *ledger {
	return &ledger{applied: map[object.Key]bool{}, usable: map[object.Key]bool{}, refused: map[object.Key]refusal{}}
}

// note writes down what became of an attempt to apply an object.
func (l *ledger) note(key object.Key, err error, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.refused[key] = refusal{err: err, tries: l.refused[key].tries + 1, last: now}
		return
	}
	delete(l.refused, key)
	l.applied[key] = true
}

// serve notes that what a definition defines can be created.
func (l *ledger) serve(key object.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.usable[key] = true
}

// forget lets an object be applied again.
func (l *ledger) forget(key object.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.applied, key)
}

// of is what is known of one object.
func (l *ledger) of(key object.Key) (applied, usable bool, refused refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applied[key], l.usable[key], l.refused[key]
}

// due says that a refused object is to be tried again: whatever refuses it may come up at any time, so not ever more rarely.
func (r refusal) due(now time.Time) bool {
	return r.err == nil || now.Sub(r.last) >= min(time.Second<<min(r.tries, 4), 10*time.Second)
}

// maxNamed bounds how many refused objects a message names.
const maxNamed = 10

// failure names the objects that are refused at present.
func (l *ledger) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []error
	for _, key := range slices.SortedFunc(maps.Keys(l.refused), object.Key.Compare) {
		if len(all) == maxNamed {
			all = append(all, fmt.Errorf("and %d more", len(l.refused)-maxNamed))
			break
		}
		all = append(all, l.refused[key].err)
	}
	return errors.Join(all...)
}

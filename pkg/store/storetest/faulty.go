package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
)

// Op names an operation of store.Store.
type Op string

// The operations.
const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
	Lock   Op = "lock"   // Lock of a store.Locker
	Locked Op = "locked" // LockedUntil and CheckLock of a store.Locker
)

// Call is one operation on its way to the store.
type Call struct {
	// N is its number: 1 for the first operation after SetFaults.
	N    int
	Op   Op
	Name string // of the object; for a List, the prefix
	Data []byte // of a Put; not to be changed
}

// Fault says how one operation goes wrong. The zero Fault is none.
type Fault struct {
	// Delay passes before the operation, or until its context ends: an hour is a server that never answers.
	Delay time.Duration

	// Err is returned instead of doing the operation; a List returns it after Keep objects.
	Err error
	// Done does the operation before Err is returned, so that only its answer is lost.
	Done bool
	// Lose reports that a Put or Delete succeeded although it is not done.
	Lose bool
	// Late, if not 0, has a copy of a Put or Delete reach the store when that many further operations have begun, or when
	// Deliver is called, whichever is first. With Err the caller has given up by then: the request was reordered. Without, it
	// is done at once and a second time: it was duplicated.
	Late int

	// Corrupt replaces the data that a Get returns or a Put stores. It may change its argument, or cut it short: a partial write,
	// or a Get that returns less than was asked for, which a correct store never does.
	Corrupt func([]byte) []byte
	// Keep and Cut shorten a listing to its first Keep objects, sorted by name. Without Err the listing then claims to be
	// complete, which a correct store never does.
	Keep int
	Cut  bool

	// After is called when the operation was done, or was not because of Err or Lose, and before its caller hears of it: for
	// a List, before it ends.
	After func()
}

// Faults decides how an operation goes wrong. It is called before the operation reaches the store, from several
// goroutines at once if the store is, and may do anything itself: cancel a context, wait for another goroutine, or end the process.
type Faults func(Call) Fault

// ErrCrashed is what CrashBefore and CrashAfter return. It is none of the store's errors, so that nobody tries again.
var ErrCrashed = errors.New("the process was killed here")

// CrashBefore makes the nth operation and all after it fail and not be done: for the store, the process was killed
// before its nth operation. To go through all of them:
//
//	for n := 1; ; n++ {
//		s.SetFaults(storetest.CrashBefore(n))
//		err := save(s)
//		s.SetFaults(nil)
//		if err == nil {
//			break // a save makes n-1 operations
//		}
//		check(s)
//	}
func CrashBefore(n int) Faults {
	return func(c Call) Fault {
		if c.N >= n {
			return Fault{Err: ErrCrashed}
		}
		return Fault{}
	}
}

// CrashAfter is as CrashBefore, but the nth operation itself is done and its answer never heard.
func CrashAfter(n int) Faults {
	return func(c Call) Fault {
		if c.N >= n {
			return Fault{Err: ErrCrashed, Done: c.N == n}
		}
		return Fault{}
	}
}

// Random lets each operation go wrong with probability p, in one of the given ways. Whether and how the nth does depends on seed
// and n alone.
//
//	s.SetFaults(storetest.Random(1, 0.2,
//		storetest.Fault{Err: store.ErrUnavailable},
//		storetest.Fault{Err: store.ErrUnavailable, Done: true},
//		storetest.Fault{Err: context.DeadlineExceeded, Late: 3},
//		storetest.Fault{Delay: time.Millisecond}))
func Random(seed uint64, p float64, ways ...Fault) Faults {
	return func(c Call) Fault {
		r := rand.New(rand.NewPCG(seed, uint64(c.N)))
		if r.Float64() >= p {
			return Fault{}
		}
		return ways[r.IntN(len(ways))]
	}
}

// On applies faults to the given operation on names with the prefix only; an empty op means every operation. The others
// are counted all the same.
//
//	s.SetFaults(storetest.On(storetest.Put, "packs/", storetest.Fault{Lose: true}))
func On(op Op, prefix string, f Fault) Faults {
	return func(c Call) Fault {
		if (op == "" || op == c.Op) && strings.HasPrefix(c.Name, prefix) {
			return f
		}
		return Fault{}
	}
}

// Faulty is a store over another one that misbehaves as told. Several clients may share it, as they share a server.
type Faulty struct {
	store store.Store

	mu     sync.Mutex
	faults Faults
	counts map[Op]int // since SetFaults
	begun  int        // operations, ever
	late   []request
	lag    int
	recent []change // of the last lag operations
}

// request is a Put or a Delete.
type request struct {
	op   Op
	name string
	data []byte
	due  int  // the operation before which it is delivered
	open bool // a Put without a lock
}

// change is a request that was done.
type change struct {
	op   Op
	at   int        // the operation that made it
	info store.Info // as the listing showed it before, if it was a Delete
}

var _ store.Locker = (*Faulty)(nil)

// NewFaulty returns a store that passes every operation on to s until SetFaults or SetLag is called.
func NewFaulty(s store.Store) *Faulty { return &Faulty{store: s, counts: map[Op]int{}} }

// SetFaults makes every following operation ask faults, and begins to count at 1 again; nil ends all faults.
func (f *Faulty) SetFaults(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
	clear(f.counts)
}

// SetLag makes listings lag: they show the objects that there were before the last n operations, so that new ones are missing
// and deleted ones still there. Changes that were made before SetLag are always seen; 0 ends the lag.
func (f *Faulty) SetLag(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lag, f.recent = n, nil
}

// Count tells how many of the given operations, or of all if none is given, have begun since SetFaults.
func (f *Faulty) Count(ops ...Op) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for op, count := range f.counts {
		if len(ops) == 0 || slices.Contains(ops, op) {
			n += count
		}
	}
	return n
}

// Deliver lets all late requests reach the store now, in the order in which they were made, and tells how many there were.
// What the store answers is heard by nobody.
func (f *Faulty) Deliver() int {
	return f.deliver(func(request) bool { return true })
}

func (f *Faulty) deliver(due func(request) bool) int {
	f.mu.Lock()
	var requests []request
	f.late = slices.DeleteFunc(f.late, func(r request) bool {
		if due(r) {
			requests = append(requests, r)
			return true
		}
		return false
	})
	f.mu.Unlock()
	for _, r := range requests {
		// The request outlived the one who made it, and with it the context. Its answer goes nowhere.
		_ = f.do(context.Background(), r)
	}
	return len(requests)
}

// begin counts an operation, asks for its fault and waits as long as that says. It fails if the context has ended.
func (f *Faulty) begin(ctx context.Context, c Call) (Fault, error) {
	f.mu.Lock()
	f.begun++
	begun := f.begun
	f.counts[c.Op]++
	for _, n := range f.counts {
		c.N += n
	}
	faults := f.faults
	f.mu.Unlock()
	f.deliver(func(r request) bool { return r.due <= begun })

	var fault Fault
	if faults != nil {
		fault = faults(c)
	}
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return fault, failed(c.Op, c.Name, err)
	}
	return fault, nil
}

func failed(op Op, name string, err error) error { return fmt.Errorf("%s %q: %w", op, name, err) }

// end hears of an operation before its caller does.
func (f Fault) end(op Op, name string, err error) error {
	if f.After != nil {
		f.After()
	}
	if f.Err != nil {
		return failed(op, name, f.Err)
	}
	return err
}

// Put implements store.Store.
func (f *Faulty) Put(ctx context.Context, name string, data []byte) error {
	return f.request(ctx, request{op: Put, name: name, data: data})
}

// Delete implements store.Store.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	return f.request(ctx, request{op: Delete, name: name})
}

func (f *Faulty) request(ctx context.Context, r request) error {
	if err := store.CheckName(r.name); err != nil {
		return err
	}
	fault, err := f.begin(ctx, Call{Op: r.op, Name: r.name, Data: r.data})
	if err != nil {
		return err
	}
	if fault.Corrupt != nil && r.op == Put {
		r.data = fault.Corrupt(slices.Clone(r.data))
	}
	if fault.Late > 0 {
		f.mu.Lock()
		f.late = append(f.late, request{r.op, r.name, slices.Clone(r.data), f.begun + fault.Late, r.open})
		f.mu.Unlock()
	}
	if fault.Err == nil && !fault.Lose || fault.Done {
		err = f.do(ctx, r)
	}
	return fault.end(r.op, r.name, err)
}

// do has the store do a request, and remembers it for listings that lag.
func (f *Faulty) do(ctx context.Context, r request) error {
	f.mu.Lock()
	lagging := f.lag > 0
	f.mu.Unlock()
	done := change{op: r.op, info: store.Info{Name: r.name}}
	if lagging && r.op == Delete {
		info, err := f.store.Stat(ctx, r.name)
		if err != nil {
			lagging = false // there is nothing that a listing could still show
		}
		done.info = info
	}
	err := f.apply(ctx, r)
	if err == nil && lagging {
		f.mu.Lock()
		done.at = f.begun
		f.recent = append(slices.DeleteFunc(f.recent, func(c change) bool { return c.at < f.begun-f.lag }), done)
		f.mu.Unlock()
	}
	return err
}

func (f *Faulty) apply(ctx context.Context, r request) error {
	if r.op == Delete {
		return f.store.Delete(ctx, r.name)
	}
	if locker, ok := f.store.(store.Locker); ok && r.open {
		return locker.PutUnlocked(ctx, r.name, r.data)
	}
	return f.store.Put(ctx, r.name, r.data)
}

// Get implements store.Store.
func (f *Faulty) Get(ctx context.Context, name string, off, length int64) (data []byte, err error) {
	fault, err := f.begin(ctx, Call{Op: Get, Name: name})
	if err != nil {
		return nil, err
	}
	if fault.Err == nil || fault.Done {
		data, err = f.store.Get(ctx, name, off, length)
	}
	if err == nil && fault.Corrupt != nil {
		data = fault.Corrupt(data)
	}
	if err := fault.end(Get, name, err); err != nil {
		return nil, err
	}
	return data, nil
}

// Stat implements store.Store.
func (f *Faulty) Stat(ctx context.Context, name string) (info store.Info, err error) {
	fault, err := f.begin(ctx, Call{Op: Stat, Name: name})
	if err != nil {
		return store.Info{}, err
	}
	if fault.Err == nil || fault.Done {
		info, err = f.store.Stat(ctx, name)
	}
	if err := fault.end(Stat, name, err); err != nil {
		return store.Info{}, err
	}
	return info, nil
}

// List implements store.Store.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		fault, err := f.begin(ctx, Call{Op: List, Name: prefix})
		if err != nil {
			yield(store.Info{}, err)
			return
		}
		for info, err := range f.listing(ctx, prefix, fault) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		if err := fault.end(List, prefix, nil); err != nil {
			yield(store.Info{}, err)
		}
	}
}

// listing is what the store lists, less what the fault and the lag hide.
func (f *Faulty) listing(ctx context.Context, prefix string, fault Fault) iter.Seq2[store.Info, error] {
	f.mu.Lock()
	lag := f.lag
	f.mu.Unlock()
	cut := fault.Cut || fault.Err != nil && !fault.Done
	switch {
	case cut && fault.Keep == 0:
		return func(func(store.Info, error) bool) {}
	case !cut && lag == 0:
		return f.store.List(ctx, prefix)
	}
	return func(yield func(store.Info, error) bool) {
		var infos []store.Info
		for info, err := range f.store.List(ctx, prefix) {
			if err != nil {
				yield(store.Info{}, err)
				return
			}
			infos = append(infos, info)
		}
		infos = f.lagging(infos, prefix)
		slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
		if cut {
			infos = infos[:min(fault.Keep, len(infos))]
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// lagging undoes the latest changes in a listing, the last first.
func (f *Faulty) lagging(infos []store.Info, prefix string) []store.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range slices.Backward(f.recent) {
		if c.at < f.begun-f.lag || !strings.HasPrefix(c.info.Name, prefix) {
			continue
		}
		infos = slices.DeleteFunc(infos, func(i store.Info) bool { return i.Name == c.info.Name })
		if c.op == Delete {
			infos = append(infos, c.info)
		}
	}
	return infos
}

// Memory is a store in memory that can misbehave.
type Memory struct {
	*Faulty
	mem *mem.Store
}

// NewMemory returns an empty store in memory without faults.
func NewMemory() *Memory {
	s := mem.New()
	return &Memory{Faulty: NewFaulty(s), mem: s}
}

// Names returns the names of all objects, sorted, whatever the faults.
func (m *Memory) Names() []string { return m.mem.Names() }

// Overwrite replaces or creates an object, which nothing does through the interface.
func (m *Memory) Overwrite(name string, data []byte) { m.mem.Overwrite(name, data) }

// SetRetention has the store lock, for that long by its clock, what is written from now on.
func (m *Memory) SetRetention(d time.Duration) { m.mem.SetRetention(d) }

// SetClock makes now the clock that Info.Modified comes from.
func (m *Memory) SetClock(now func() time.Time) { m.mem.SetClock(now) }

// Only returns a view of s that permits the given operations and denies all others, as credentials do.
//
//	storetest.Only(s, storetest.Put)                                                                // write-only
//	storetest.Only(s, storetest.Put, storetest.Get, storetest.Stat, storetest.List)                 // all but deleting
//	storetest.Only(s, storetest.Get, storetest.Stat, storetest.List)                                // read-only
func Only(s store.Store, ops ...Op) store.Store {
	f := NewFaulty(s)
	f.SetFaults(func(c Call) Fault {
		if slices.Contains(ops, c.Op) {
			return Fault{}
		}
		return Fault{Err: store.ErrDenied}
	})
	return f
}

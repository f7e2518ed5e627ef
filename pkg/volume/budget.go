package volume

import (
	"context"
	"runtime"
	"sync"
)

const (
	// window is how much of a file is read at once.
	window = 16 * cellSize
	// uploads is how many packs are on their way to the store at once. With those that are being filled they are the bulk of what a
	// save keeps in memory.
	uploads = 3
)

// budget is what all saves of one Vault share, so that many at once need little more than one: the turns to read and compress, and
// those to store packs, with their buffers. The zero value is ready. Whoever has a turn never waits for another of its kind, so
// saves cannot stop one another for ever.
type budget struct {
	once    sync.Once
	reading chan struct{}
	storing chan struct{}

	mu      sync.Mutex
	saves   int
	buffers spares[buffers]
	packs   spares[pack]
}

// spares are things that serve again.
type spares[T any] struct {
	free []*T
	made int
}

// take returns one that is free, or a new one.
func (s *spares[T]) take() *T {
	if n := len(s.free); n > 0 {
		t := s.free[n-1]
		s.free = s.free[:n-1]
		return t
	}
	s.made++
	return new(T)
}

func (s *spares[T]) give(t *T) { s.free = append(s.free, t) }

// buffers are what one needs to read and compress.
type buffers struct {
	data    []byte // maxCut bytes of the window before, and a window
	encoded []byte
}

// readers is how many files are read at once.
func readers() int { return max(4, 2*runtime.GOMAXPROCS(0)) }

func (b *budget) init() {
	b.once.Do(func() {
		b.reading = make(chan struct{}, readers())
		b.storing = make(chan struct{}, uploads)
	})
}

// enter begins a save. Buffers are kept until the last one that is under way calls leave.
func (b *budget) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saves++
}

func (b *budget) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.saves--; b.saves == 0 {
		b.buffers.free, b.packs.free = nil, nil
	}
}

// read waits for a turn to read. It returns nil when ctx ends first.
func (b *budget) read(ctx context.Context) *buffers {
	b.init()
	select {
	case b.reading <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	b.mu.Lock()
	f := b.buffers.take()
	b.mu.Unlock()
	if f.data == nil {
		f.data = make([]byte, maxCut+window)
	}
	return f
}

func (b *budget) doneReading(f *buffers) {
	b.mu.Lock()
	b.buffers.give(f)
	b.mu.Unlock()
	<-b.reading
}

// pack returns an empty pack, for one who fills no other of the same kind.
func (b *budget) pack() *pack {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.packs.take()
}

// store waits for a turn to store a pack.
func (b *budget) store(ctx context.Context) error {
	b.init()
	select {
	case b.storing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *budget) doneStoring(p *pack) {
	b.mu.Lock()
	b.packs.give(p)
	b.mu.Unlock()
	<-b.storing
}

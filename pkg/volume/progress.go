package volume

import (
	"sync/atomic"
	"time"
)

// Progress tells how far a save or a load is.
type Progress struct {
	Files      int64 // files that are done
	Bytes      int64 // bytes of files read or written, without holes
	TotalFiles int64 // 0: not known, as in a save
	TotalBytes int64
	Stored     int64 // bytes written to the store, by a save; fetched from it, by a load
	// Of a save with a parent: files, counted in Files too, that were found unchanged, and their bytes, which are not in Bytes.
	Unchanged, UnchangedBytes int64
	Verifying                 bool // a load is reading back; Files and Bytes count from zero again
}

// progressInterval is how often Progress is reported.
const progressInterval = 500 * time.Millisecond

// progress counts what a save or a load did. Its counters are also what the statistics are made of.
type progress struct {
	files, dirs, links, specials, sockets atomic.Int64
	unchanged, unchangedBytes, failed     atomic.Int64
	bytes, size, fresh, stored            atomic.Int64
	totalFiles, totalBytes                atomic.Int64
	again                                 atomic.Pointer[progress] // of reading back
}

func (p *progress) count(e *entry) {
	switch e.kind {
	case kindFile:
		p.files.Add(1)
		p.size.Add(e.size)
	case kindDir:
		p.dirs.Add(1)
	case kindLink, kindHard:
		p.links.Add(1)
	case kindFIFO, kindChar, kindBlock:
		p.specials.Add(1)
	}
}

func (p *progress) stats() Stats {
	return Stats{
		Files: p.files.Load(), Directories: p.dirs.Load(), Links: p.links.Load(), Specials: p.specials.Load(), Sockets: p.sockets.Load(),
		Unchanged: p.unchanged.Load(), UnchangedBytes: p.unchangedBytes.Load(), Failed: p.failed.Load(),
		Size: p.size.Load(), Bytes: p.bytes.Load(), New: p.fresh.Load(), Stored: p.stored.Load(),
	}
}

func (p *progress) current() Progress {
	now := Progress{Files: p.files.Load(), Bytes: p.bytes.Load(), TotalFiles: p.totalFiles.Load(), TotalBytes: p.totalBytes.Load(),
		Stored: p.stored.Load(), Unchanged: p.unchanged.Load(), UnchangedBytes: p.unchangedBytes.Load()}
	if again := p.again.Load(); again != nil {
		now.Verifying, now.Files, now.Bytes = true, again.files.Load(), again.bytes.Load()
	}
	return now
}

// report calls tell from time to time until the returned function is called, which tells once more.
func (p *progress) report(tell func(Progress)) (stop func()) {
	if tell == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				tell(p.current())
			case <-quit:
				tell(p.current())
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

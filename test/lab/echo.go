package lab

import (
	"context"
	"io"
	"sync"
)

type echoKey struct{}

// WithEcho makes every command that runs under the context copy what it prints to w.
func WithEcho(ctx context.Context, w io.Writer) context.Context {
	return context.WithValue(ctx, echoKey{}, &lockedWriter{w: w})
}

func writerFrom(ctx context.Context) io.Writer {
	w, _ := ctx.Value(echoKey{}).(*lockedWriter)
	if w == nil {
		return nil
	}
	return w
}

// lockedWriter serves a command's two streams, which are copied by two goroutines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func multi(writers ...io.Writer) io.Writer {
	var used []io.Writer
	for _, w := range writers {
		if w != nil {
			used = append(used, w)
		}
	}
	// One lock for all: exec copies stdout and stderr at once when they differ.
	return &lockedWriter{w: io.MultiWriter(used...)}
}

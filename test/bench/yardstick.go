package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// yardsticks are what the tools are held against: copying, and compressing alone.
func yardsticks(self string) []tool {
	only := func(op string, args func(r *repetition) []string) func(*repetition, string) command {
		return func(r *repetition, got string) command {
			if got != op {
				return command{}
			}
			return command{args: args(r)}
		}
	}
	alone := func(codec string) tool {
		return tool{name: codec + " alone", beside: true, command: only(opSave, func(r *repetition) []string {
			return []string{self, "-mode", modeCompress, "-codec", codec, r.source}
		})}
	}
	return []tool{
		alone("s2"),
		alone("zstd"),
		{name: "cp -a", beside: true, command: only(opLoad, func(r *repetition) []string {
			return []string{"cp", "-a", r.source, r.target}
		})},
		{name: "cp -a; sync", beside: true, command: only(opLoad, func(r *repetition) []string {
			return []string{"sh", "-c", `cp -a "$1" "$2" && sync -f "$2"`, "sh", r.source, r.target}
		})},
		{name: "tar|zstd -1", beside: true, command: func(r *repetition, op string) command {
			switch op {
			case opSave:
				return command{args: []string{"bash", "-o", "pipefail", "-c", `tar -C "$1" -H posix -cSf - . | zstd -1 -T2 -q -o "$2"/tar.zst`, "bash", r.source, r.store.path}}
			case opLoad:
				return command{args: []string{"bash", "-o", "pipefail", "-c", `mkdir "$1" && zstd -d -q -c "$2"/tar.zst | tar -C "$1" -xpf -`, "bash", r.target, r.store.path}}
			}
			return command{}
		}},
	}
}

const (
	// cell is how much is compressed at a time: what Lockstep cuts database files into.
	cell = 64 * kib
	// span is how much of a file is read at a time.
	span = 64 * cell
)

// compress reads all files below a directory, compresses them cell by cell on all cores, and keeps nothing: what compresses
// so and does more cannot be faster.
func compress(ctx context.Context, codec, dir string) error {
	type part struct {
		path   string
		offset int64
	}
	parts := make(chan part)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(parts)
		return walkFiles(dir, func(path string, size int64) error {
			for at := int64(0); at < size; at += span {
				select {
				case parts <- part{path, at}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
	})
	for range runtime.NumCPU() {
		g.Go(func() error {
			encode, err := encoder(codec)
			if err != nil {
				return err
			}
			buf := make([]byte, span)
			for p := range parts {
				n, err := readPart(p.path, p.offset, buf)
				if err != nil {
					return err
				}
				for piece := range slices.Chunk(buf[:n], cell) {
					encode(piece)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func readPart(path string, offset int64, buf []byte) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// encoder is a compressor for one goroutine, at the setting that Lockstep uses.
func encoder(codec string) (func([]byte), error) {
	var out []byte
	switch codec {
	case "s2":
		out = make([]byte, s2.MaxEncodedLen(cell))
		return func(raw []byte) { s2.Encode(out, raw) }, nil
	case "zstd":
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1),
			zstd.WithAllLitEntropyCompression(true), zstd.WithSingleSegment(true))
		return func(raw []byte) { out = z.EncodeAll(raw, out[:0]) }, err
	}
	return nil, fmt.Errorf("codec %q: want s2 or zstd", codec)
}

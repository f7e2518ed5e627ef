package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	page = 8 * kib
	// editedPages make 10.7 MB.
	editedPages = 1306
	// settle is how long the dataset is left alone after an edit was taken back: a tool may have to read a file again that changed just
	// before it was saved.
	settle = 3 * time.Second
)

// change is what an edit alters in one file: a page, or what the file has of one, at each offset.
type change struct {
	path    string
	offsets []int64
}

// pickPages picks pages at random places of the files below a part of the dataset, as a database writes them.
func pickPages(below string) func(dir string, r *rand.Rand) ([]change, error) {
	return func(dir string, r *rand.Rand) ([]change, error) {
		var files []change
		var ends []int64 // of each file, in pages of all files
		var total int64
		err := walkFiles(filepath.Join(dir, below), func(path string, size int64) error {
			if size >= page {
				total += size / page
				files, ends = append(files, change{path: path}), append(ends, total)
			}
			return nil
		})
		if err != nil || total == 0 {
			return nil, err
		}
		taken := map[int64]bool{}
		for int64(len(taken)) < min(editedPages, total) {
			at := r.Int64N(total)
			if taken[at] {
				continue
			}
			taken[at] = true
			i, begin := 0, int64(0)
			for ; at >= ends[i]; i++ {
				begin = ends[i]
			}
			files[i].offsets = append(files[i].offsets, (at-begin)*page)
		}
		return files, nil
	}
}

// pickFiles picks one file of a hundred.
func pickFiles(dir string, r *rand.Rand) ([]change, error) {
	var files []change
	err := walkFiles(dir, func(path string, size int64) error {
		if size > 0 && r.IntN(100) == 0 {
			files = append(files, change{path, []int64{0}})
		}
		return nil
	})
	return files, err
}

// flip alters some bytes in each page of a change. Done twice, nothing has changed.
func (c change) flip(seed uint64) error {
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, page)
	for _, at := range c.offsets {
		n, err := f.ReadAt(buf, at)
		if n == 0 {
			return err
		}
		r := rand.New(rand.NewPCG(seed, uint64(at)))
		for range 8 {
			start := r.IntN(n)
			for i := start; i < min(start+24, n); i++ {
				buf[i] ^= byte(r.Uint32())
			}
		}
		if _, err := f.WriteAt(buf[:n], at); err != nil {
			return err
		}
	}
	return f.Close()
}

// edited runs do while about 1 % of the dataset is altered, the same for the same seed, and leaves the dataset as it was.
func (d dataset) edited(dir string, seed uint64, do func() error) (err error) {
	changes, err := d.pick(dir, rand.New(rand.NewPCG(seed, 3)))
	if err != nil {
		return err
	}
	defer func() { time.Sleep(settle) }() // the last of what is deferred
	for _, c := range changes {
		if len(c.offsets) == 0 {
			continue
		}
		info, err := os.Stat(c.path)
		if err != nil {
			return err
		}
		if err := c.flip(seed); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.flip(seed), os.Chtimes(c.path, time.Time{}, info.ModTime())) }()
	}
	return do()
}

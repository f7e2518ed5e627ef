package volume_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// pages makes files like those of a database, compressible to three eighths.
func pages(b *testing.B, dir string) {
	for i := range 4 {
		data := randomBytes(uint64(i), 64<<20)
		for at := 0; at < len(data); at += 8 << 10 {
			clear(data[at : at+5<<10])
		}
		write(b, filepath.Join(dir, fmt.Sprint(i)), data)
	}
}

func smallFiles(b *testing.B, dir string) {
	for i := range 10000 {
		write(b, filepath.Join(dir, fmt.Sprint(i%100), fmt.Sprint(i)), randomBytes(uint64(i), 8<<10))
	}
}

func benchmark(b *testing.B, run func(b *testing.B, src string)) {
	for name, fill := range map[string]func(*testing.B, string){"pages": pages, "small": smallFiles} {
		b.Run(name, func(b *testing.B) {
			src := b.TempDir()
			fill(b, src)
			run(b, src)
		})
	}
}

func newStore(b *testing.B) store.Store {
	s, err := fs.Create(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkSave(b *testing.B) {
	benchmark(b, func(b *testing.B, src string) {
		for b.Loop() {
			b.StopTimer()
			v := newVault(b, newStore(b))
			b.StartTimer()
			b.SetBytes(save(b, v, src).Stats.Bytes)
		}
	})
}

func BenchmarkSaveAgain(b *testing.B) {
	benchmark(b, func(b *testing.B, src string) {
		v := newVault(b, newStore(b))
		save(b, v, src)
		for b.Loop() {
			b.SetBytes(save(b, v, src).Stats.Bytes)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for _, verify := range []volume.Verify{volume.VerifyWrite, volume.VerifyReadback} {
		b.Run(verify.String(), func(b *testing.B) {
			benchmark(b, func(b *testing.B, src string) {
				v := newVault(b, newStore(b))
				s := save(b, v, src)
				dir := filepath.Join(b.TempDir(), "x")
				for b.Loop() {
					r, err := v.Load(b.Context(), s.ID, dir, volume.LoadOptions{Verify: verify})
					if err != nil {
						b.Fatal(err)
					}
					b.SetBytes(r.Stats.Bytes)
					b.StopTimer()
					if err := os.RemoveAll(dir); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		})
	}
}

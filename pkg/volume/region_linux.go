package volume

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// region is memory whose pages the system may write to a file without a name when it needs room. A nil region is memory of the heap.
type region struct{ mapped []byte }

// regionMin is the size, in bytes, from which a region is worth its file.
const regionMin = 32 << 20

// allocate returns room for n items, which must hold no pointers: on the heap if it is little or no temporary file can be made.
func allocate[T any](n int) ([]T, *region) {
	var item T
	size := n * int(unsafe.Sizeof(item))
	if size < regionMin {
		return make([]T, 0, n), nil
	}
	f, err := os.CreateTemp("", "lockstep-index-")
	if err != nil {
		return make([]T, 0, n), nil
	}
	defer f.Close()
	os.Remove(f.Name())
	// Allocated and not only made long: a file system that is full must not kill the program later.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
		return make([]T, 0, n), nil
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return make([]T, 0, n), nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mapped))), n)[:0], &region{mapped}
}

func (r *region) free() {
	if r != nil {
		_ = unix.Munmap(r.mapped) // what was mapped can be unmapped
	}
}

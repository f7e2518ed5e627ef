//go:build !unix

package render

import (
	"io"
	"os"
)

// readFile gives the first bytes of a file, at most so many.
func readFile(name string, most int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most))
}

//go:build !linux

// Command cluster needs Linux.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Fprintf(os.Stderr, "cluster: cannot run here: clusters are made of Linux namespaces, and this is %s\n", runtime.GOOS)
	os.Exit(2)
}

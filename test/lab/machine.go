package lab

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine says what this runs on, for the reports of benchmarks.
func Machine() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // where there is none, it is left out
	return fmt.Sprintf("%d cores of %s, Linux %s, %s", runtime.NumCPU(), processor(), strings.TrimSpace(string(release)), runtime.Version())
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

//go:build linux

// Package namespace makes a set of namespaces fit for the processes of a
// cluster or of the lab.
package namespace

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where processes see the directory that is theirs, whatever its path
// is on the machine: short enough for sockets, and everywhere the same.
const Dir = "/run/lockstep"

// Enter gives the fresh mount namespace that this process is in what must not
// be the machine's: its processes, an empty /run with the directory at Dir, and
// plain files in place of these settings (paths below /proc/sys), which take
// what is written to them.
func Enter(dir string, settings map[string]string) error {
	self, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %q: %w", dir, err)
	}
	defer func() { _ = unix.Close(self) }()
	var m mounter
	// Mounts made here stay here, mounts that the machine drops go here too;
	// below that, containers may share mounts with one another.
	m.mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	m.mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	m.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	for _, d := range []string{Dir, "/run/lock", "/run/netns"} {
		m.mkdir(d)
	}
	m.mount(fmt.Sprintf("/proc/self/fd/%d", self), Dir, "", unix.MS_BIND, "")
	m.shadowSettings("/run/settings", settings)
	return m.err
}

// mounter keeps the first error so that Enter reads as a list.
type mounter struct{ err error }

func (m *mounter) mount(source, target, fstype string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		m.err = fmt.Errorf("mounting %q: %w", target, err)
	}
}

func (m *mounter) mkdir(path string) {
	if m.err == nil {
		m.err = os.MkdirAll(path, 0o755)
	}
}

// shadowSettings puts plain files with these values over settings.
func (m *mounter) shadowSettings(dir string, values map[string]string) {
	m.mkdir(dir)
	for name, value := range values {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if m.err == nil {
			m.err = os.WriteFile(file, []byte(value+"\n"), 0o644)
		}
		m.mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, "")
	}
}

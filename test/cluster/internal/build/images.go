//go:build linux

package build

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/image"
)

//go:embed files
var imageFiles embed.FS

// recipe says what an image holds beside busybox. Paths are those of Debian's packages and
// the same in the image.
type recipe struct {
	Name     string // repository:tag
	Packages []string
	Programs []string // ELF files, packed with the libraries they need
	Modules  []string // patterns of shared objects, packed likewise
	Without  []string // base names of modules that are left out
	Trees    []string
	Files    map[string]string // path in the image: name of an embedded file
	Dirs     []string          // writable by the image's user
	Config   image.Config
}

// userID owns what servers write, in every image.
const userID = 999

func recipes() []recipe {
	const (
		path  = "PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/bin:/bin:/usr/sbin:/sbin"
		pgbin = "/usr/lib/postgresql/15/bin/"
	)
	user := fmt.Sprintf("%d:%d", userID, userID)
	return []recipe{
		{
			Name: "lockstep.test/busybox:1", Packages: []string{"busybox-static"},
			Config: image.Config{Cmd: []string{"sh"}, Env: []string{path}},
		},
		{
			Name: "lockstep.test/postgres:15", Packages: []string{"postgresql-15", "busybox-static"},
			Programs: []string{pgbin + "postgres", pgbin + "initdb", pgbin + "pg_ctl", pgbin + "psql", pgbin + "pg_amcheck",
				pgbin + "pgbench", pgbin + "pg_isready", pgbin + "pg_dump", pgbin + "pg_checksums", pgbin + "createdb"},
			Modules: []string{"/usr/lib/postgresql/15/lib/*.so"},
			// Compiling queries takes a library larger than all else together.
			Without: []string{"llvmjit.so"},
			Trees:   []string{"/usr/share/postgresql/15", "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo/Etc", "/usr/share/zoneinfo/UTC"},
			Files:   map[string]string{"/usr/local/bin/docker-entrypoint.sh": "postgres.sh"},
			Dirs:    []string{"/var/run/postgresql", "/var/lib/postgresql", "/var/lib/postgresql/data"},
			Config: image.Config{
				Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"postgres"}, User: user,
				Env: []string{path, "LANG=C.UTF-8", "PGDATA=/var/lib/postgresql/data/pgdata"},
			},
		},
		{
			Name: "lockstep.test/redis:7", Packages: []string{"redis-server", "redis-tools", "busybox-static"},
			Programs: []string{"/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/redis-benchmark"},
			Files:    map[string]string{"/usr/local/bin/docker-entrypoint.sh": "redis.sh"},
			Dirs:     []string{"/data"},
			Config: image.Config{
				Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"redis-server"}, User: user,
				Env: []string{path}, WorkingDir: "/data",
			},
		},
		{
			Name: "lockstep.test/mariadb:10.11", Packages: []string{"mariadb-server", "busybox-static"},
			Programs: []string{"/usr/sbin/mariadbd", "/usr/bin/mariadb", "/usr/bin/mariadb-check", "/usr/bin/my_print_defaults", "/usr/bin/resolveip"},
			Trees:    []string{"/usr/bin/mariadb-install-db", "/usr/share/mysql"},
			Files:    map[string]string{"/usr/local/bin/docker-entrypoint.sh": "mariadb.sh"},
			Dirs:     []string{"/run/mysqld", "/var/lib/mysql", "/usr/lib/mysql/plugin"},
			Config: image.Config{
				Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"mariadbd"}, User: user, Env: []string{path},
			},
		},
	}
}

// Images packs the images that every cluster starts with and returns their
// archives. It needs apt, and the binaries for the image that holds pods open.
func (b Builder) Images(ctx context.Context, binaries Binaries) ([]string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return nil, err
	}
	all, err := json.Marshal(recipes())
	if err != nil {
		return nil, err
	}
	inputs := []string{string(all), string(release), runtime.GOARCH, filepath.Base(binaries.dir), imageFormat}
	for _, name := range []string{"postgres.sh", "redis.sh", "mariadb.sh"} {
		content, err := imageFiles.ReadFile("files/" + name)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, string(content))
	}
	dir, err := b.once(ctx, "images", keyOf(inputs...), func(ctx context.Context, dir string) error {
		return b.packImages(ctx, dir, binaries)
	})
	if err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "*.tar"))
}

// imageFormat changes when the code below packs something else from the same
// recipe.
const imageFormat = "1"

func (b Builder) packImages(ctx context.Context, dir string, binaries Binaries) error {
	var pause image.Layer
	if err := pause.AddFile("pause", filepath.Join(binaries.Bin(), "pause")); err != nil {
		return err
	}
	if err := image.Write(filepath.Join(dir, "pause.tar"), "lockstep.test/pause:1", &pause, image.Config{Entrypoint: []string{"/pause"}}); err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	if err := b.unpackPackages(ctx, filepath.Join(dir, "packages"), root); err != nil {
		return err
	}
	for _, r := range recipes() {
		if err := b.Step("packing image "+r.Name, func() error { return r.pack(ctx, root, dir) }); err != nil {
			return fmt.Errorf("packing image %q: %w", r.Name, err)
		}
	}
	return errors.Join(os.RemoveAll(root), os.RemoveAll(filepath.Join(dir, "packages")))
}

// unpackPackages fetches the recipes' packages with all they depend on, as if
// nothing were installed, and unpacks them below root: what is on this machine
// plays no part.
func (b Builder) unpackPackages(ctx context.Context, archives, root string) error {
	var packages []string
	for _, r := range recipes() {
		packages = append(packages, r.Packages...)
	}
	status := filepath.Join(archives, "status")
	if err := errors.Join(os.MkdirAll(filepath.Join(archives, "partial"), 0o755), os.MkdirAll(root, 0o755), os.WriteFile(status, nil, 0o644)); err != nil {
		return err
	}
	args := append([]string{"install", "-y", "-q", "--download-only", "--no-install-recommends",
		"-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + archives + "/",
		"-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"}, packages...)
	if err := b.Step("fetching Debian packages for the images", func() error { return aptGet(ctx, args...) }); err != nil {
		return fmt.Errorf("fetching packages, as Debian 12 has them: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return err
	}
	return b.Step(fmt.Sprintf("unpacking %d packages", len(debs)), func() error {
		for _, deb := range debs {
			if _, err := run(ctx, "", nil, "dpkg", "-x", deb, root); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r recipe) pack(ctx context.Context, root, dir string) error {
	var l image.Layer
	if err := r.addSystem(ctx, &l, root); err != nil {
		return err
	}
	programs := r.Programs
	for _, pattern := range r.Modules {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if !slices.Contains(r.Without, filepath.Base(f)) {
				programs = append(programs, strings.TrimPrefix(f, root))
			}
		}
	}
	if err := l.AddPrograms(root, programs...); err != nil {
		return err
	}
	for _, t := range r.Trees {
		if err := l.AddFile(t, filepath.Join(root, t)); err != nil {
			return err
		}
	}
	for dst, name := range r.Files {
		content, err := imageFiles.ReadFile("files/" + name)
		if err != nil {
			return err
		}
		l.AddData(dst, 0o755, content)
	}
	return image.Write(filepath.Join(dir, r.shortName()+".tar"), r.Name, &l, r.Config)
}

// shortName is the name without repository and tag.
func (r recipe) shortName() string {
	name, _, _ := strings.Cut(filepath.Base(r.Name), ":")
	return name
}

// addSystem adds what every image has: accounts, places to write, a shell.
func (r recipe) addSystem(ctx context.Context, l *image.Layer, root string) error {
	account := r.shortName()
	l.AddData("/etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0:root:/root:/bin/sh\n%s:x:%d:%d::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", account, userID, userID))
	l.AddData("/etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\n%s:x:%d:\nnogroup:x:65534:\n", account, userID))
	l.AddData("/etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	l.AddDir("/tmp", os.ModeSticky|0o777, 0, 0)
	l.AddDir("/root", 0o700, 0, 0)
	for _, d := range r.Dirs {
		l.AddDir(d, 0o755, userID, userID)
	}
	busybox := filepath.Join(root, "bin/busybox")
	names, err := run(ctx, "", nil, busybox, "--list")
	if err != nil {
		return err
	}
	if err := l.AddFile("/bin/busybox", busybox); err != nil {
		return err
	}
	for _, n := range strings.Fields(string(names)) {
		if n != "busybox" {
			l.AddLink("/bin/"+n, "busybox")
		}
	}
	return nil
}

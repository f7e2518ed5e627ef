// Package image writes container image archives from plain files: one layer,
// in the form that `ctr images import` and `docker load` take. The same input
// gives the same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
)

// Config is how a container of the image is started.
type Config struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
	User       string   `json:"User,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
}

// Layer collects the files of an image. The zero value is an empty layer.
type Layer struct{ entries map[string]entry }

type entry struct {
	mode     fs.FileMode
	uid, gid int
	link     string // target of a symbolic link
	data     []byte
	file     string // read when the archive is written
}

// AddData adds a regular file with this content.
func (l *Layer) AddData(dst string, mode fs.FileMode, data []byte) {
	l.put(dst, entry{mode: mode.Perm(), data: data})
}

// AddDir adds a directory of an owner.
func (l *Layer) AddDir(dst string, mode fs.FileMode, uid, gid int) {
	l.put(dst, entry{mode: fs.ModeDir | mode, uid: uid, gid: gid})
}

// AddLink adds a symbolic link.
func (l *Layer) AddLink(dst, target string) {
	l.put(dst, entry{mode: fs.ModeSymlink | 0o777, link: target})
}

// AddFile adds the file or the whole tree at src. Files are owned by root and
// are readable by everyone; of their modes only "executable" is kept, so that
// the umask of whoever made them does not change the image.
func (l *Layer) AddFile(dst, src string) error {
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := path.Join(dst, filepath.ToSlash(rel))
		info, err := d.Info()
		if err != nil {
			return err
		}
		// The named file itself may be a link to what is meant; links inside a
		// tree are kept as they are.
		if p == src && info.Mode()&fs.ModeSymlink != 0 {
			if info, err = os.Stat(p); err != nil {
				return err
			}
		}
		switch {
		case info.IsDir():
			l.put(to, entry{mode: fs.ModeDir | 0o755})
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			l.AddLink(to, target)
		case info.Mode().IsRegular():
			mode := fs.FileMode(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			l.put(to, entry{mode: mode, file: p})
		default:
			return fmt.Errorf("packing %q: a %s cannot be packed", p, info.Mode().Type())
		}
		return nil
	})
}

func (l *Layer) put(dst string, e entry) {
	if l.entries == nil {
		l.entries = map[string]entry{}
	}
	dst = strings.TrimPrefix(path.Clean("/"+dst), "/")
	if dst == "" {
		return
	}
	l.entries[dst] = e
	for d := path.Dir(dst); d != "."; d = path.Dir(d) {
		if _, ok := l.entries[d]; !ok {
			l.entries[d] = entry{mode: fs.ModeDir | 0o755}
		}
	}
}

// writeTo writes the layer as a tar stream, sorted and without times.
func (l *Layer) writeTo(w io.Writer) error {
	names := make([]string, 0, len(l.entries))
	for n := range l.entries {
		names = append(names, n)
	}
	sort.Strings(names)
	tw := tar.NewWriter(w)
	for _, n := range names {
		if err := l.entries[n].writeTo(tw, n); err != nil {
			return fmt.Errorf("packing %q: %w", n, err)
		}
	}
	return tw.Close()
}

func (e entry) writeTo(tw *tar.Writer, name string) error {
	h := &tar.Header{Name: name, Mode: int64(e.mode.Perm()), Uid: e.uid, Gid: e.gid, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if e.mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	data := e.data
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case e.mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
	case e.file != "":
		var err error
		if data, err = os.ReadFile(e.file); err != nil {
			return err
		}
	}
	h.Size = int64(len(data))
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(data)
	return err
}

// Write writes the archive of an image of one layer to the file at out, whole
// or not at all.
func Write(out, tag string, layer *Layer, config Config) (err error) {
	dir, base := filepath.Split(out)
	if dir == "" {
		dir = "."
	}
	body, err := os.CreateTemp(dir, "."+base+".layer-*")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close(); _ = os.Remove(body.Name()) }()
	sum := sha256.New()
	if err := layer.writeTo(io.MultiWriter(body, sum)); err != nil {
		return err
	}
	size, err := body.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	meta, err := describe(tag, fmt.Sprintf("sha256:%x", sum.Sum(nil)), config)
	if err != nil {
		return err
	}
	return writeArchive(out, meta, body, size)
}

// metadata is what an archive holds beside its layer.
type metadata struct {
	configName       string
	config, manifest []byte
}

const (
	layerName    = "layer.tar"
	manifestName = "manifest.json"
)

// manifest describes one image of an archive.
type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func describe(tag, diff string, config Config) (metadata, error) {
	if !strings.Contains(tag, ":") {
		return metadata{}, fmt.Errorf("image name %q has no tag", tag)
	}
	c, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diff}},
	})
	if err != nil {
		return metadata{}, err
	}
	name := fmt.Sprintf("%x.json", sha256.Sum256(c))
	m, err := json.Marshal([]manifest{{Config: name, RepoTags: []string{tag}, Layers: []string{layerName}}})
	return metadata{configName: name, config: c, manifest: m}, err
}

func writeArchive(out string, meta metadata, layer io.Reader, size int64) (err error) {
	tmp := out + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(tmp, out)
		} else {
			_ = os.Remove(tmp)
		}
	}()
	tw := tar.NewWriter(f)
	add := func(name string, r io.Reader, n int64) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: n}); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	return errors.Join(
		add(meta.configName, bytes.NewReader(meta.config), int64(len(meta.config))),
		add(layerName, layer, size),
		add(manifestName, bytes.NewReader(meta.manifest), int64(len(meta.manifest))),
		tw.Close(),
	)
}

// Tags returns the names of the images in an archive.
func Tags(archive string) ([]string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%q is not an image archive: it has no %s", archive, manifestName)
		}
		if err != nil {
			return nil, fmt.Errorf("reading image archive %q: %w", archive, err)
		}
		if h.Name != manifestName {
			continue
		}
		var images []manifest
		if err := json.NewDecoder(tr).Decode(&images); err != nil {
			return nil, fmt.Errorf("reading image archive %q: %w", archive, err)
		}
		var tags []string
		for _, i := range images {
			tags = append(tags, i.RepoTags...)
		}
		return tags, nil
	}
}

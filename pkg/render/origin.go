package render

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// origin is where an object comes from: a file, and what it is called.
type origin struct {
	file, kind, name string
}

// wantOrigins makes kustomize note the origins of what a kustomization builds.
func (fs *guardedFS) wantOrigins(file string, as As) error {
	data, err := fs.ReadFile(file)
	if err != nil {
		return err
	}
	if as.change != nil {
		var failed error
		data, err = edit(data, func(k map[string]any) { failed = as.change(k) })
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
	}
	return fs.take(file, data)
}

func (fs *guardedFS) withOrigins(kustomization []byte) ([]byte, error) {
	return edit(kustomization, func(k map[string]any) {
		metadata, _ := k["buildMetadata"].([]any)
		fs.annotated = slices.Contains(metadata, any(types.OriginAnnotations))
		if !slices.Contains(metadata, any(types.OriginAnnotations)) {
			k["buildMetadata"] = append(slices.Clone(metadata), types.OriginAnnotations)
		}
	})
}

func edit(kustomization []byte, change func(map[string]any)) ([]byte, error) {
	k := map[string]any{}
	if err := yaml.Unmarshal(kustomization, &k); err != nil {
		return nil, err
	}
	if k == nil {
		k = map[string]any{}
	}
	change(k)
	return yaml.Marshal(k)
}

// matchOrigins finds the origins by kinds and names in the files that kustomizations name as resources. It says no where two files have
// the same: kustomize can tell, but then it takes twice the time.
func (fs *guardedFS) matchOrigins(built resmap.ResMap) bool {
	type place struct{ file, name string }
	byKind := map[string][]place{}
	for _, file := range fs.resources {
		name := fs.name(file)
		data, ok := fs.contents[file]
		if !ok {
			continue // a directory
		}
		if fs.documents[name] == nil {
			fs.documents[name] = documentsOf(data)
		}
		for _, d := range fs.documents[name] {
			if strings.HasSuffix(d.kind, "List") {
				return false
			}
			byKind[d.kind] = append(byKind[d.kind], place{name, d.name})
		}
	}
	for _, g := range fs.generators {
		byKind[g.kind] = append(byKind[g.kind], place{g.file, g.name})
	}
	fs.origins = make([]origin, 0, built.Size())
	for _, r := range built.Resources() {
		o := origin{kind: r.GetKind(), name: r.GetName()}
		best, files := -1, map[string]bool{}
		for _, p := range byKind[o.kind] {
			if !strings.Contains(o.name, p.name) || len(p.name) < best {
				continue
			}
			if len(p.name) > best {
				best, o.file = len(p.name), p.file
				clear(files)
			}
			files[p.file] = true
		}
		if len(files) != 1 {
			return false
		}
		fs.origins = append(fs.origins, o)
	}
	return true
}

// takeOrigins notes the origins and takes them out of the objects, unless the kustomization itself asks for them.
func (fs *guardedFS) takeOrigins(dir string, built resmap.ResMap) error {
	fs.origins = make([]origin, 0, built.Size())
	for _, r := range built.Resources() {
		o := origin{kind: r.GetKind(), name: r.GetName()}
		noted, err := r.GetOrigin()
		if err != nil {
			return err
		}
		if noted != nil {
			where := noted.Path
			if where == "" {
				where = noted.ConfiguredIn
			}
			o.file = fs.name(filepath.Join(dir, filepath.FromSlash(where)))
		}
		fs.origins = append(fs.origins, o)
		if !fs.annotated {
			if err := r.SetOrigin(nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutRemote leaves out of a kustomization what leads elsewhere, and says so.
func (fs *guardedFS) withoutRemote(file string, kustomization []byte) ([]byte, error) {
	var k types.Kustomization
	if err := k.Unmarshal(kustomization); err != nil {
		return kustomization, nil //nolint:nilerr // kustomize says so itself
	}
	charts := len(k.HelmCharts)+len(k.HelmChartInflationGenerator) > 0 || k.HelmGlobals != nil
	if !charts && !slices.ContainsFunc(slices.Concat(k.Resources, k.Bases, k.Components), isRemote) { //nolint:staticcheck // still followed
		return kustomization, nil
	}
	gap := func(what, why string) {
		fs.lenient(desired.Gap{Origin: desired.Origin{File: fs.name(file), Line: lineOf(kustomization, what)}, What: what, Why: why})
	}
	return edit(kustomization, func(m map[string]any) {
		for _, field := range []string{"resources", "bases", "components"} {
			list, _ := m[field].([]any)
			m[field] = slices.DeleteFunc(list, func(entry any) bool {
				ref, ok := entry.(string)
				if !ok || !isRemote(ref) {
					return false
				}
				gap(ref, "it is outside the repository")
				return true
			})
		}
		for _, field := range []string{"helmCharts", "helmChartInflationGenerator", "helmGlobals"} {
			if _, ok := m[field]; ok {
				gap(field, "charts that kustomize would fetch are not rendered")
				delete(m, field)
			}
		}
		for _, field := range []string{"resources", "bases", "components"} {
			if list, _ := m[field].([]any); len(list) == 0 {
				delete(m, field)
			}
		}
		if len(m) == 0 || !slices.ContainsFunc(slices.Collect(maps.Keys(m)), func(key string) bool { return key != "apiVersion" && key != "kind" && key != "metadata" }) {
			m["buildMetadata"] = []any{types.OriginAnnotations} // empty it would be refused
		}
	})
}

// lineOf is the first line with the text in it, from 1; 0 if none has.
func lineOf(data []byte, text string) int {
	i := bytes.Index(data, []byte(text))
	if i < 0 {
		return 0
	}
	return 1 + bytes.Count(data[:i], []byte("\n"))
}

// document is one of a YAML file.
type document struct {
	line       int
	kind, name string
}

var kindLine = regexp.MustCompile(`(?m)^"?kind"?:[ \t]*["']?([^"'#\s]+)`)

// at finds the line of an object's document. Names may have got prefixes and suffixes since.
func (fs *guardedFS) at(o origin) desired.Origin {
	found := desired.Origin{File: o.file}
	data, err := fs.read(filepath.Join(fs.root, filepath.FromSlash(o.file)))
	if err != nil {
		return found
	}
	if isKustomization(o.file) { // a generator makes it
		unhashed := o.name[:max(0, strings.LastIndex(o.name, "-"))]
		found.Line = cmp.Or(lineOf(data, "name: "+o.name), lineOf(data, "name: "+unhashed), lineOf(data, "Generator:"))
		return found
	}
	if fs.documents[o.file] == nil {
		fs.documents[o.file] = documentsOf(data)
	}
	best := -1
	for i, d := range fs.documents[o.file] {
		fits := -1
		switch {
		case i == 0:
			fits = 0
		case d.kind != o.kind:
			continue
		}
		if d.kind == o.kind && strings.Contains(o.name, d.name) {
			fits = 1 + len(d.name)
		}
		if fits > best {
			best, found.Line = fits, d.line
		}
	}
	return found
}

// documentsOf splits a file where YAML does, and looks for names without parsing it.
func documentsOf(data []byte) []document {
	var documents []document
	line := 1
	for _, text := range splitDocuments(data) {
		d := document{}
		if first := firstLine(text); first > 0 {
			d.line = line + first - 1
		}
		if m := kindLine.FindSubmatch(text); m != nil {
			d.kind = string(m[1])
		}
		d.name = nameOf(text)
		if d.line > 0 && (d.kind == "" || d.name == "") {
			var meta struct {
				Kind     string
				Metadata struct{ Name string }
			}
			if yaml.Unmarshal(text, &meta) == nil {
				d.kind, d.name = meta.Kind, meta.Metadata.Name
			}
		}
		if d.line > 0 {
			documents = append(documents, d)
		}
		line += bytes.Count(text, []byte("\n"))
	}
	return documents
}

// firstLine is where the content of a document begins, from 1; 0 if it has none.
func firstLine(text []byte) int {
	number := 0
	for l := range bytes.Lines(text) {
		number++
		if t := bytes.TrimSpace(l); len(t) > 0 && t[0] != '#' && string(t) != "---" {
			return number
		}
	}
	return 0
}

// nameOf is metadata.name where it is written in the usual way, line by line.
func nameOf(text []byte) string {
	inside, indent := false, ""
	for l := range strings.Lines(string(text)) {
		l = strings.TrimRight(l, " \t\r\n")
		trimmed := strings.TrimLeft(l, " ")
		switch {
		case !inside:
			inside = l == "metadata:"
		case trimmed == "" || trimmed[0] == '#':
		case trimmed == l:
			return ""
		default:
			if indent == "" {
				indent = l[:len(l)-len(trimmed)]
			}
			if name, ok := strings.CutPrefix(l, indent+"name: "); ok && !strings.ContainsAny(name, "#&*!|>{") {
				return strings.Trim(name, ` "'`)
			}
		}
	}
	return ""
}

// splitDocuments cuts a file before each line that begins with three dashes.
func splitDocuments(data []byte) [][]byte {
	data = decoded(data)
	var documents [][]byte
	from := 0
	for at := 0; at < len(data); {
		if at > from && bytes.HasPrefix(data[at:], []byte("---")) {
			documents = append(documents, data[from:at])
			from = at
		}
		next := bytes.IndexByte(data[at:], '\n')
		if next < 0 {
			break
		}
		at += next + 1
	}
	return append(documents, data[from:])
}

// decoded is a file in UTF-8 without a byte order mark. By that mark YAML's readers, and with them the engines, know UTF-16.
func decoded(data []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(data, []byte("\ufeff")):
		return data[len("\ufeff"):]
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}):
		order = binary.LittleEndian
	case bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		order = binary.BigEndian
	default:
		return data
	}
	units := make([]uint16, len(data)/2-1)
	for i := range units {
		units[i] = order.Uint16(data[2+2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}

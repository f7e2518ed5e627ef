package render

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/ignore"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// install is a chart of the repository and what becomes of it.
type install struct {
	// dir is the chart's directory.
	dir, name, namespace string
	// defaults replace the chart's own values, if not nil; values win over them.
	defaults, values map[string]any
	skipCRDs         bool
	kubeVersion      string
	apiVersions      []string
	// sight is what Flux sees of the chart; nil for all.
	sight *sight
}

// chartTime is how long one chart may take: its templates are programs.
const chartTime = 30 * time.Second

// helm renders a chart as `helm template` does, with its hooks, save those that are tests. Nothing is asked of a cluster or of the network.
func (r *Repository) helm(ctx context.Context, in install) ([]desired.Object, []desired.Gap, error) {
	fs := r.guard(ctx.Err).seeing(in.sight)
	fs.contents, fs.documents = map[string][]byte{}, map[string][]document{}
	c, err := fs.chart(in.dir, 0)
	if err != nil {
		return nil, nil, err
	}
	if in.defaults != nil {
		c.Values = in.defaults
	}
	values, err := chartValues(c, in)
	if err != nil {
		return nil, nil, err
	}
	files, err := templates(ctx, c, values)
	if err != nil {
		return nil, nil, fmt.Errorf("chart %s: %w", in.dir, fs.relative(err))
	}
	return fs.chartObjects(c, in, files)
}

// chartValues prepares what the templates see. Values are not held against the chart's schema, which may refer to the network.
func chartValues(c *chart.Chart, in install) (common.Values, error) {
	if err := chartutil.ProcessDependencies(c, in.values); err != nil {
		return nil, err
	}
	capabilities := common.DefaultCapabilities.Copy()
	if in.kubeVersion != "" {
		version, err := common.ParseKubeVersion(in.kubeVersion)
		if err != nil {
			return nil, err
		}
		capabilities.KubeVersion = *version
	}
	capabilities.APIVersions = append(slices.Clone(capabilities.APIVersions), in.apiVersions...)
	if want := c.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, capabilities.KubeVersion.String()) {
		return nil, fmt.Errorf("its chart wants Kubernetes %s, and is rendered for %s", want, capabilities.KubeVersion.String())
	}
	options := common.ReleaseOptions{Name: in.name, Namespace: in.namespace, Revision: 1, IsInstall: true}
	return util.ToRenderValuesWithSchemaValidation(c, in.values, options, capabilities, true)
}

// templates runs the templates of a chart.
func templates(ctx context.Context, c *chart.Chart, values common.Values) (map[string]string, error) {
	return inTime(ctx, chartTime, func() (map[string]string, error) {
		e := engine.Engine{CustomTemplateFuncs: boundedFuncs()}
		return e.RenderWithContext(ctx, c, values)
	})
}

// inTime runs templates, which are programs. Those that do not end are left behind when the time is over: nothing can stop them.
func inTime[T any](ctx context.Context, most time.Duration, run func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("its templates take longer than %s", most))
	defer cancel()
	type result struct {
		made T
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- result{err: fmt.Errorf("its templates fail: %v", p)}
			}
		}()
		made, err := run()
		done <- result{made, err}
	}()
	select {
	case got := <-done:
		return got.made, got.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// chartObjects reads what the templates made.
func (fs *guardedFS) chartObjects(c *chart.Chart, in install, files map[string]string) ([]desired.Object, []desired.Gap, error) {
	for name, content := range files {
		if strings.HasSuffix(name, "NOTES.txt") || int64(len(content)) > fs.bounds.file {
			delete(files, name)
		}
		if int64(len(content)) > fs.bounds.file {
			return nil, nil, tooMuch("%s of chart %s makes more than %d bytes", name, in.dir, fs.bounds.file)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, nil, fmt.Errorf("chart %s: %w", in.dir, err)
	}
	var objects []desired.Object
	var nameless []desired.Gap
	add := func(name, content string) error {
		if err := checkAliases([]byte(content), fs.bounds.nodes); err != nil {
			return err
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(content), &u.Object); err != nil {
			return fmt.Errorf("%s of chart %s: %w", name, in.dir, err)
		}
		if len(u.Object) == 0 {
			return nil
		}
		if u.GetKind() == "" {
			return fmt.Errorf("%s of chart %s makes an object without a kind", name, in.dir)
		}
		where := path.Join(in.dir, strings.TrimPrefix(name, c.Name()))
		from := fs.at(origin{file: where, kind: u.GetKind(), name: u.GetName()})
		return eachObject(u, func(u *unstructured.Unstructured) {
			if u.GetName() == "" {
				nameless = append(nameless, withoutName(u, from))
				return
			}
			objects = append(objects, desired.Object{Unstructured: u, Origin: from})
		})
	}
	if !in.skipCRDs {
		for _, crd := range c.CRDObjects() {
			for _, text := range splitDocuments(crd.File.Data) {
				if err := add(crd.Filename, string(text)); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	for _, m := range manifests {
		if err := add(m.Name, m.Content); err != nil {
			return nil, nil, err
		}
	}
	for _, h := range hooks {
		if isTest(h) {
			continue
		}
		if err := add(h.Path, h.Manifest); err != nil {
			return nil, nil, err
		}
	}
	plain := make([]*unstructured.Unstructured, len(objects))
	for i := range objects {
		plain[i] = objects[i].Unstructured
	}
	setNamespaces(plain, cmp.Or(in.namespace, defaultNamespace))
	return objects, nameless, nil
}

func isTest(h *release.Hook) bool {
	return !slices.ContainsFunc(h.Events, func(e release.HookEvent) bool { return e != release.HookTest })
}

// chart loads a chart as Helm does, without leaving the repository, and the dependencies that it has beside it.
func (fs *guardedFS) chart(dir string, depth int) (*chart.Chart, error) {
	if depth > 10 {
		return nil, tooMuch("the charts that %s depends on lead in a circle", dir)
	}
	files, err := fs.chartFiles(dir)
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, &Error{File: dir, Err: fs.relative(err)}
	}
	for _, d := range c.Metadata.Dependencies {
		if d == nil || slices.ContainsFunc(c.Dependencies(), func(have *chart.Chart) bool { return have.Name() == d.Name }) {
			continue
		}
		local, ok := strings.CutPrefix(d.Repository, "file://")
		if !ok {
			return nil, &Error{File: path.Join(dir, "Chart.yaml"), Err: fmt.Errorf("its dependency %s of %s is not in the repository", d.Name, d.Repository)}
		}
		dependency, err := fs.chart(path.Join(dir, local), depth+1)
		if err != nil {
			return nil, err
		}
		c.AddDependency(dependency)
	}
	return c, nil
}

// chartFiles are those of a chart that its .helmignore does not name.
func (fs *guardedFS) chartFiles(dir string) ([]*archive.BufferedFile, error) {
	top, err := fs.directory(dir)
	if err != nil {
		return nil, &Error{File: dir, Err: err}
	}
	if err := fs.bringAll(top); err != nil {
		return nil, &Error{File: dir, Err: err}
	}
	rules := ignore.Empty()
	if data, err := fs.read(filepath.Join(top, ".helmignore")); err == nil {
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return nil, &Error{File: path.Join(dir, ".helmignore"), Err: err}
		}
	}
	rules.AddDefaults()
	var files []*archive.BufferedFile
	err = filepath.WalkDir(top, func(file string, entry os.DirEntry, err error) error {
		if err != nil || file == top {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(strings.TrimPrefix(file, top)), "/")
		info, err := entry.Info()
		switch {
		case err != nil:
			return err
		case rules.Ignore(name, info) && entry.IsDir():
			return filepath.SkipDir
		case rules.Ignore(name, info) || entry.IsDir() || !fs.sight.sees(fs.name(file)):
			return nil
		}
		data, err := fs.chartFile(file)
		if err != nil {
			return &Error{File: fs.name(file), Err: err}
		}
		files = append(files, &archive.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))})
		return nil
	})
	return files, err
}

// chartFile reads a file of a chart; a link is followed to a file inside the repository.
func (fs *guardedFS) chartFile(file string) ([]byte, error) {
	data, err := fs.read(file)
	if err == nil || errors.As(err, new(*BoundError)) || fs.over() != nil {
		return data, err
	}
	return nil, fs.relative(err)
}

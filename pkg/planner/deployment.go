package planner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/render"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// maxBuilds bounds how many Kustomizations are followed.
const maxBuilds = 200

// Engine is what applies a commit, and how it builds it.
type Engine struct {
	*plan.Engine
	// Builds are what the engine deploys before the path, and last the path. None means that the path is built as it is.
	Builds []gitops.Build
}

// NewEngine finds out how a chosen engine builds the target for a Restore in the namespace home. Outside lockstep-system a Restore may
// neither hold objects of other namespaces, nor learn the variables that these take from Secrets.
func NewEngine(ctx context.Context, c gitops.Cluster, chosen plan.Engine, target gitops.Target, home string) (*Engine, error) {
	if home != v1alpha1.SystemNamespace {
		for _, o := range chosen.Objects {
			if o.Namespace != home {
				chosen.Refusals = append(slices.Clone(chosen.Refusals), fmt.Sprintf("%s %s is outside namespace %s; only a Restore in %s may reach there",
					o.Kind, gitops.Name(o), home, v1alpha1.SystemNamespace))
				return &Engine{Engine: &chosen}, nil
			}
		}
	}
	builds, err := ruler.Builds(ctx, c, chosen.Name, chosen.Objects, target)
	return &Engine{Engine: &chosen, Builds: builds}, err
}

func (p *Planner) engine(ctx context.Context) (*Engine, error) {
	if p.Engine == nil {
		return &Engine{}, nil
	}
	engine, err := p.Engine(ctx)
	if engine == nil {
		engine = &Engine{}
	}
	return engine, err
}

// render gives the objects of the commit as the engine will apply them.
func (p *Planner) render(ctx context.Context, at v1alpha1.Revision, engine *Engine, set residual.Set) ([]*unstructured.Unstructured, error) {
	if len(engine.Builds) == 0 {
		as := render.As{Path: at.Path}
		if len(p.Keys) > 0 && !p.IgnoreMAC && !engine.Manages() {
			as.Check = p.Keys.Verify
		}
		return renderAs(ctx, p.Repository, at, as)
	}
	if refusals := engine.Builds[len(engine.Builds)-1].Refusals; len(refusals) > 0 {
		return nil, failed(StepRender, errors.New(strings.Join(refusals, "; ")))
	}
	d := deployment{p: p, values: map[object.Key]*unstructured.Unstructured{}, followed: map[object.Name]bool{}, residual: set}
	err := withFiles(ctx, p.Repository, at, func(dir string) error {
		d.dir = dir
		return d.deploy(ctx, engine.Builds)
	})
	if d.unasked != nil {
		return nil, d.unasked
	}
	return d.objects, err
}

// deployment is what an engine makes of a commit.
type deployment struct {
	p       *Planner
	dir     string
	objects []*unstructured.Unstructured
	// values are the ConfigMaps and Secrets that the commit has brought so far, residual is what the point holds.
	values   map[object.Key]*unstructured.Unstructured
	residual residual.Set
	followed map[object.Name]bool
	// unasked is why the cluster could not be asked. Nothing follows from that.
	unasked error
}

// deploy builds the last of the builds and what follows from it. What comes before is asked for nothing but variables.
func (d *deployment) deploy(ctx context.Context, builds []gitops.Build) error {
	path := builds[len(builds)-1]
	needed, err := flux.ValuesOf(path)
	if err != nil {
		return err
	}
	if len(needed) > 0 {
		for _, b := range builds[:len(builds)-1] {
			objects, err := d.build(ctx, b)
			if err != nil {
				return err
			}
			d.remember(objects)
		}
	}
	return d.follow(ctx, path, true)
}

// follow builds, and then each Kustomization of the same commit that comes of it. One that brings itself, with other fields than it
// has now, is built as it will be.
func (d *deployment) follow(ctx context.Context, b gitops.Build, path bool) error {
	name := gitops.NameOf(b.Kustomization)
	if d.followed[name] || !path && flux.Suspended(b) {
		return nil
	}
	if d.followed[name] = true; len(d.followed) > maxBuilds {
		return fmt.Errorf("%s: more than %d Kustomizations follow from it", b.By, maxBuilds)
	}
	objects, err := d.build(ctx, b)
	if err != nil {
		return err
	}
	nested := flux.Nested(b, objects)
	for _, n := range nested {
		if gitops.NameOf(n.Kustomization) != name || sameBuild(n, b) {
			continue
		}
		if objects, err = d.build(ctx, n); err != nil {
			return err
		}
		nested = flux.Nested(n, objects)
		break
	}
	d.remember(objects)
	d.objects = append(d.objects, objects...)
	for _, n := range nested {
		if err := d.follow(ctx, n, false); err != nil {
			return err
		}
	}
	return nil
}

// sameBuild says that two Kustomizations make the same of the same directory.
func sameBuild(a, b gitops.Build) bool {
	fields := func(b gitops.Build) map[string]any {
		spec, _, _ := unstructured.NestedMap(b.Kustomization.Object, "spec")
		delete(spec, "suspend") // which is the hold
		return spec
	}
	return reflect.DeepEqual(fields(a), fields(b))
}

func (d *deployment) build(ctx context.Context, b gitops.Build) ([]*unstructured.Unstructured, error) {
	variables, err := d.variables(ctx, b)
	if err != nil {
		return nil, err
	}
	objects, err := render.Build(ctx, d.dir, render.As{
		Path: gitops.Text(b.Kustomization, "spec", "path"), Kustomization: b.Kustomization, Variables: variables, Namespace: b.Namespace, Flat: b.Flat, Ignore: b.Ignore,
	})
	if err != nil {
		return nil, fmt.Errorf("as %s does: %w", b.By, err)
	}
	return objects, nil
}

func (d *deployment) remember(objects []*unstructured.Unstructured) {
	for _, u := range objects {
		if gk := u.GroupVersionKind().GroupKind(); gk == object.Secret || gk == object.ConfigMap {
			d.values[object.KeyOf(u)] = u
		}
	}
}

// variables are those that a build takes from ConfigMaps and Secrets.
func (d *deployment) variables(ctx context.Context, b gitops.Build) (map[string]string, error) {
	from, err := flux.ValuesOf(b)
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	for _, v := range from {
		values, err := d.valuesOf(ctx, v.Key)
		if err != nil {
			return nil, err
		}
		if values == nil && !v.Optional {
			return nil, fmt.Errorf("%s takes variables from %s, which neither the commit, nor the cluster, nor the point holds in clear: "+
				"make it, so that it is known what will be deployed", b.By, v.Key)
		}
		maps.Copy(variables, values)
	}
	return variables, nil
}

// valuesOf are the entries of a ConfigMap or Secret that will be there when the engine asks: the commit's own, which is applied before;
// or what the cluster has; or what the point brings back where it is absent. Nil if it is none of these.
func (d *deployment) valuesOf(ctx context.Context, key object.Key) (map[string]string, error) {
	if u := d.values[key]; u != nil {
		if opened, err := d.p.Keys.Decrypt(u); err == nil && !object.IsEncrypted(opened) {
			return entries(opened)
		}
	}
	if d.p.Values != nil {
		values, err := d.p.Values(ctx, key)
		if d.unasked = err; err != nil || values != nil {
			return values, err
		}
	}
	for i := range d.residual.Secrets {
		if s := &d.residual.Secrets[i]; key == (object.Key{Kind: object.Secret.Kind, Namespace: s.Namespace, Name: s.Name}) {
			return text(s.Data, nil), nil
		}
	}
	for i := range d.residual.Objects {
		if u := &d.residual.Objects[i]; object.KeyOf(u) == key {
			return entries(u)
		}
	}
	return nil, nil
}

// entries are those of a ConfigMap or Secret. What is wrong with one is not said: that may repeat a value.
func entries(u *unstructured.Unstructured) (map[string]string, error) {
	var (
		secret    corev1.Secret
		configMap corev1.ConfigMap
		err       error
	)
	if u.GroupVersionKind().GroupKind() == object.Secret {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &secret)
	} else {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &configMap)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is malformed", object.KeyOf(u))
	}
	return text(secret.Data, secret.StringData, configMap.Data), nil
}

// ReadValues is a Planner's Values against a cluster. The reader must not be a cache.
func ReadValues(ctx context.Context, c client.Reader, key object.Key) (map[string]string, error) {
	var (
		secret    corev1.Secret
		configMap corev1.ConfigMap
		into      client.Object = &secret
	)
	if key.GroupKind() == object.ConfigMap {
		into = &configMap
	}
	err := c.Get(ctx, client.ObjectKey(key.NamespacedName()), into)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s for its variables: %w", key, err)
	}
	return text(secret.Data, configMap.Data), nil
}

func text(data map[string][]byte, more ...map[string]string) map[string]string {
	values := map[string]string{}
	for name, value := range data {
		values[name] = string(value)
	}
	for _, m := range more {
		maps.Copy(values, m)
	}
	return values
}

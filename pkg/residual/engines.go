package residual

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// maxRelease bounds the bytes of an unpacked Helm release.
const maxRelease = 64 << 20

var (
	kustomization = schema.GroupKind{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}
	helmReleases  = schema.GroupKind{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}
	applications  = schema.GroupKind{Group: "argoproj.io", Kind: "Application"}
)

// engines reads what GitOps engines say that they bring: the Kustomizations and HelmReleases that labels name, and
// the Applications of Argo CD where one tracks by label. What they need themselves may be brought by others in turn.
func (s *survey) engines(ctx context.Context) error {
	read := map[object.Key]bool{}
	for looked := 0; looked < len(s.facts.Objects); {
		kustomizations, releases := map[object.Name]bool{}, map[object.Name]bool{}
		for _, o := range s.facts.Objects[looked:] {
			if name := o.Labels[labelKustomization]; name != "" {
				kustomizations[object.Name{Namespace: o.Labels[labelKustomizationNamespace], Name: name}] = true
			}
			if name := o.Labels[labelHelmRelease]; name != "" {
				releases[object.Name{Namespace: o.Labels[labelHelmReleaseNamespace], Name: name}] = true
			}
		}
		looked = len(s.facts.Objects)
		if err := s.bringAll(ctx, kustomization, kustomizations, read, s.kustomization); err != nil {
			return err
		}
		if err := s.bringAll(ctx, helmReleases, releases, read, s.release); err != nil {
			return err
		}
	}
	return s.applications(ctx)
}

// bringAll reads those of the objects that were not read before.
func (s *survey) bringAll(
	ctx context.Context, gk schema.GroupKind, names map[object.Name]bool, done map[object.Key]bool, read func(context.Context, *unstructured.Unstructured) error,
) error {
	for _, name := range slices.SortedFunc(maps.Keys(names), object.Name.Compare) {
		key := object.Key{Group: gk.Group, Kind: gk.Kind, Namespace: name.Namespace, Name: name.Name}
		if done[key] {
			continue
		}
		done[key] = true
		if err := s.bring(ctx, gk, name, read); err != nil {
			return err
		}
	}
	return nil
}

// bring reads an object of Flux, if it is there.
func (s *survey) bring(ctx context.Context, gk schema.GroupKind, name object.Name, read func(context.Context, *unstructured.Unstructured) error) error {
	gvk, served := s.served(gk)
	if !served {
		return nil
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	err := s.Get(ctx, client.ObjectKey(name), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s %q: %w", gk.Kind, name, err)
	}
	if _, elsewhere, _ := unstructured.NestedMap(u.Object, "spec", "kubeConfig"); elsewhere {
		return nil // it deploys to another cluster
	}
	return read(ctx, u)
}

func (s *survey) served(gk schema.GroupKind) (schema.GroupVersionKind, bool) {
	for _, gvk := range s.scope.Kinds {
		if gvk.GroupKind() == gk {
			return gvk, true
		}
	}
	return schema.GroupVersionKind{}, false
}

// kustomization notes the inventory of a Kustomization of Flux, and what it needs itself.
func (s *survey) kustomization(ctx context.Context, u *unstructured.Unstructured) error {
	by := "Kustomization " + u.GetNamespace() + "/" + u.GetName()
	if secret, _, _ := unstructured.NestedString(u.Object, "spec", "decryption", "secretRef", "name"); secret != "" {
		s.want(object.Key{Kind: object.Secret.Kind, Namespace: u.GetNamespace(), Name: secret}, by, true)
	}
	s.wantEach(u, by, "spec", "postBuild", "substituteFrom")
	if _, err := s.inventory(u, by); err != nil {
		return err
	}
	return s.ofKustomization(ctx, u, by)
}

// wantEach notes the references of a list such as substituteFrom or valuesFrom.
func (s *survey) wantEach(u *unstructured.Unstructured, by string, fields ...string) {
	list, _, _ := unstructured.NestedSlice(u.Object, fields...)
	for _, item := range list {
		ref, _ := item.(map[string]any)
		kind, _ := ref["kind"].(string)
		name, _ := ref["name"].(string)
		optional, _ := ref["optional"].(bool)
		s.want(object.Key{Kind: kind, Namespace: u.GetNamespace(), Name: name}, by, !optional)
	}
}

// inventory notes the entries of status.inventory; found says whether there is one.
func (s *survey) inventory(u *unstructured.Unstructured, by string) (found bool, err error) {
	entries, found, err := unstructured.NestedSlice(u.Object, "status", "inventory", "entries")
	if err != nil {
		return false, fmt.Errorf("reading the inventory of %s: %w", by, err)
	}
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		id, _ := entry["id"].(string)
		key, ok := parseInventory(id)
		if !ok {
			return false, fmt.Errorf("reading the inventory of %s: %q is not <namespace>_<name>_<group>_<kind>", by, id)
		}
		s.facts.Git[key] = by
	}
	return found, nil
}

// parseInventory reads "<namespace>_<name>_<group>_<kind>"; a colon in a name is written as two underscores.
func parseInventory(id string) (object.Key, bool) {
	rest, kind, ok := cutLast(id)
	rest, group, ok2 := cutLast(rest)
	namespace, name, ok3 := strings.Cut(rest, "_")
	key := object.Key{Group: group, Kind: kind, Namespace: namespace, Name: strings.ReplaceAll(name, "__", ":")}
	return key, ok && ok2 && ok3 && kind != "" && name != ""
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '_')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// release notes what a HelmRelease of Flux brings, and what it needs itself.
func (s *survey) release(ctx context.Context, u *unstructured.Unstructured) error {
	by := "HelmRelease " + u.GetNamespace() + "/" + u.GetName()
	s.wantEach(u, by, "spec", "valuesFrom")
	if err := s.releaseBrings(ctx, u, by); err != nil {
		return err
	}
	return s.ofRelease(ctx, u, by)
}

// releaseBrings notes the inventory of a HelmRelease, which newer versions of Flux keep, else what Helm's own storage has.
func (s *survey) releaseBrings(ctx context.Context, u *unstructured.Unstructured, by string) error {
	history, _, _ := unstructured.NestedSlice(u.Object, "status", "history")
	if len(history) == 0 {
		_, err := s.inventory(u, by)
		return err
	}
	newest, _ := history[0].(map[string]any)
	name, _ := newest["name"].(string)
	noted, _, _ := unstructured.NestedString(u.Object, "status", "storageNamespace")
	wanted, _, _ := unstructured.NestedString(u.Object, "spec", "storageNamespace")
	storage := cmp.Or(noted, wanted, u.GetNamespace())
	s.facts.Releases[object.Name{Namespace: storage, Name: name}] = by
	if found, err := s.inventory(u, by); found || err != nil {
		return err
	}
	version, _ := newest["version"].(int64)
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: storage, Name: fmt.Sprintf("sh.helm.release.v1.%s.v%d", name, version)}
	err := s.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		return nil // the release is gone: it brings nothing
	}
	if err != nil {
		return fmt.Errorf("reading the storage of %s: %w", by, err)
	}
	keys, err := releaseObjects(secret.Data["release"])
	if err != nil {
		return fmt.Errorf("reading the storage of %s: %w", by, err)
	}
	for _, k := range keys {
		s.facts.Git[k] = by
	}
	return nil
}

// errRelease is all that is said of a release that cannot be read: what is wrong may lie in a value.
var errRelease = errors.New("not a Helm release")

// releaseObjects are the objects of a release as Helm stores it: gzip of JSON, as base64.
func releaseObjects(data []byte) ([]object.Key, error) {
	packed, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(data)))
	if err != nil {
		return nil, errRelease
	}
	text, err := io.ReadAll(io.LimitReader(packed, maxRelease+1))
	if err != nil || len(text) > maxRelease {
		return nil, errRelease
	}
	var release struct {
		Namespace string `json:"namespace"`
		Manifest  string `json:"manifest"`
		Hooks     []struct {
			Manifest string `json:"manifest"`
		} `json:"hooks"`
	}
	if json.Unmarshal(text, &release) != nil {
		return nil, errRelease
	}
	var keys []object.Key
	manifests := []string{release.Manifest}
	for _, h := range release.Hooks {
		manifests = append(manifests, h.Manifest)
	}
	for _, manifest := range manifests {
		for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096); ; {
			u := &unstructured.Unstructured{}
			err := d.Decode(&u.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, errRelease
			}
			if u.GetName() == "" {
				continue
			}
			if u.GetNamespace() == "" {
				u.SetNamespace(release.Namespace)
			}
			keys = append(keys, object.KeyOf(u))
		}
	}
	return keys, nil
}

// applications notes what Applications of Argo CD bring that track by label, and what those need that bring something here. Those that
// track by annotation are known by it.
func (s *survey) applications(ctx context.Context) error {
	instances, trackers := map[string]bool{}, map[string]bool{}
	for _, o := range s.facts.Objects {
		instances[o.Labels["app.kubernetes.io/instance"]] = true
		if application, ok := tracked(o.Annotations[annotationArgoTracking], o.Key); ok {
			// One outside Argo CD's own namespace is tracked as "<namespace>_<name>".
			trackers[application[strings.LastIndexByte(application, '_')+1:]] = true
		}
	}
	delete(instances, "")
	gvk, served := s.served(applications)
	if !served || len(instances)+len(trackers) == 0 {
		return nil
	}
	next := ""
	for {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err := s.List(ctx, list, client.Limit(pageSize), client.Continue(next)); err != nil {
			return fmt.Errorf("listing the Applications of Argo CD: %w", err)
		}
		for i := range list.Items {
			u := &list.Items[i]
			if !here(u) || !instances[u.GetName()] && !trackers[u.GetName()] {
				continue
			}
			brought := resources(u)
			if instances[u.GetName()] {
				for _, key := range brought {
					s.facts.Git[key] = "Argo CD Application " + u.GetName()
				}
			}
			if slices.ContainsFunc(brought, func(key object.Key) bool { return slices.Contains(s.scope.Namespaces, key.Namespace) }) {
				if err := s.ofApplication(ctx, u); err != nil {
					return err
				}
			}
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

// here says that an Application deploys to the cluster that it is in.
func here(u *unstructured.Unstructured) bool {
	server, _, _ := unstructured.NestedString(u.Object, "spec", "destination", "server")
	name, _, _ := unstructured.NestedString(u.Object, "spec", "destination", "name")
	return server == "https://kubernetes.default.svc" || name == "in-cluster"
}

// resources are what an Application brings, without what Git no longer has.
func resources(u *unstructured.Unstructured) []object.Key {
	var keys []object.Key
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "resources")
	for _, item := range list {
		r, _ := item.(map[string]any)
		if pruned, _ := r["requiresPruning"].(bool); pruned {
			continue
		}
		text := func(field string) string { v, _ := r[field].(string); return v }
		keys = append(keys, object.Key{Group: text("group"), Kind: text("kind"), Namespace: text("namespace"), Name: text("name")})
	}
	return keys
}

package argocd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
)

// Builds is the Application that deploys the path.
func (a Argo) Builds(ctx context.Context, objects []v1alpha1.EngineObject, target gitops.Target) ([]gitops.Build, error) {
	for _, o := range objects {
		if o.Role != v1alpha1.RoleUnit {
			continue
		}
		u, err := a.Get(ctx, kindApplication, gitops.Name(o))
		if err != nil {
			return nil, err
		}
		if u == nil {
			return nil, fmt.Errorf("%s %s is gone: %w", o.Kind, gitops.Name(o), gitops.ErrLost)
		}
		for _, s := range sourcesOf(u) {
			if deploys(s, target.Repository, target.Path) {
				return []gitops.Build{build(u, s)}, nil
			}
		}
	}
	return nil, nil
}

// build says in Flux's words what an Application makes of one of its sources. What Flux has no word for, or Argo CD means otherwise,
// is refused by its name.
func build(u *unstructured.Unstructured, source map[string]any) gitops.Build {
	b := gitops.Build{
		By: kindApplication.Kind + " " + gitops.NameOf(u).String(), Namespace: gitops.Text(u, "spec", "destination", "namespace"),
	}
	spec := map[string]any{"path": source["path"]}
	b.Kustomization = &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	refuse := func(field string) {
		b.Refusals = append(b.Refusals, fmt.Sprintf("%s sets %s, and what Argo CD makes of that cannot be foreseen: set it in the path's "+
			"kustomization.yaml instead, if it can stand there", b.By, field))
	}
	for _, field := range []string{"helm", "plugin"} {
		if options, _ := source[field].(map[string]any); len(options) > 0 {
			refuse(field)
		}
	}
	directory, _ := source["directory"].(map[string]any)
	b.Flat = directory["recurse"] != true
	for _, field := range slices.Sorted(maps.Keys(directory)) {
		if field != "recurse" && !blank(directory[field]) {
			refuse("directory." + field)
		}
	}
	options, _ := source["kustomize"].(map[string]any)
	for _, field := range slices.Sorted(maps.Keys(options)) {
		value := options[field]
		switch field {
		case "namePrefix", "nameSuffix", "components", "ignoreMissingComponents":
			spec[field] = value
		case "namespace":
			spec["targetNamespace"] = value
		case "patches":
			spec[field] = value
			if !inline(value) {
				refuse("a patch with a path or options")
			}
		case "images":
			images, ok := readImages(value)
			spec[field] = images
			if !ok {
				refuse("kustomize.images in a form that is not known")
			}
		case "version": // of the program: which one builds makes no difference that is meant
		default:
			if !blank(value) {
				refuse("kustomize." + field)
			}
		}
	}
	return b
}

// inline says that patches consist of their text and their target.
func inline(patches any) bool {
	list, ok := patches.([]any)
	return ok && !slices.ContainsFunc(list, func(item any) bool {
		p, ok := item.(map[string]any)
		return !ok || !blank(p["path"]) || !blank(p["options"])
	})
}

func blank(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// readImages reads what Argo CD hands to kustomize edit set image: "[old=]new[:tag][@digest]".
func readImages(value any) ([]any, bool) {
	list, ok := value.([]any)
	images := []any{}
	for _, item := range list {
		text, isText := item.(string)
		ok = ok && isText && text != ""
		images = append(images, readImage(text))
	}
	return images, ok
}

func readImage(text string) map[string]any {
	name, replacement, renamed := strings.Cut(text, "=")
	if !renamed {
		replacement = text
	}
	image := map[string]any{}
	replacement, digest, pinned := strings.Cut(replacement, "@")
	if pinned {
		image["digest"] = digest
	}
	if i := strings.LastIndexByte(replacement, ':'); i > strings.LastIndexByte(replacement, '/') {
		image["newTag"], replacement = replacement[i+1:], replacement[:i]
	}
	if image["name"] = replacement; renamed {
		image["name"], image["newName"] = name, replacement
	}
	return image
}

package standin

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/fluxcd/pkg/ssa"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// applicationSet is what is stood in for: Go templates, and the Git generator with directories.
type applicationSet struct {
	Spec struct {
		GoTemplate bool `json:"goTemplate"`
		Generators []struct {
			Git *struct {
				RepoURL     string `json:"repoURL"`
				Revision    string `json:"revision"`
				Directories []struct {
					Path    string `json:"path"`
					Exclude bool   `json:"exclude"`
				} `json:"directories"`
			} `json:"git"`
		} `json:"generators"`
		Template map[string]any `json:"template"`
	} `json:"spec"`
}

// generate applies an Application for each directory that an ApplicationSet's generators find. None is deleted.
func (a *Argo) generate(ctx context.Context) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "ApplicationSetList"})
	if err := a.Client.List(ctx, list, client.InNamespace(a.Namespace)); err != nil {
		return err
	}
	var all []*unstructured.Unstructured
	for i := range list.Items {
		set := &applicationSet{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, set); err != nil {
			return err
		}
		for _, g := range set.Spec.Generators {
			if g.Git == nil || !set.Spec.GoTemplate {
				return fmt.Errorf("ApplicationSet %s: only Go templates with the Git generator are stood in for", list.Items[i].GetName())
			}
			_, root, err := a.checkout(ctx, g.Git.RepoURL, g.Git.Revision)
			if err != nil {
				return err
			}
			found := map[string]bool{}
			for _, exclude := range []bool{false, true} {
				for _, d := range g.Git.Directories {
					if d.Exclude == exclude {
						if err := mark(found, root, d.Path, !exclude); err != nil {
							return err
						}
					}
				}
			}
			for dir, wanted := range found {
				if !wanted {
					continue
				}
				application, err := fill(set.Spec.Template, dir)
				if err != nil {
					return fmt.Errorf("ApplicationSet %s: %w", list.Items[i].GetName(), err)
				}
				application.SetNamespace(a.Namespace)
				all = append(all, application)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return applyAll(ctx, a.Client, ssa.Owner{Field: "argocd-applicationset-controller", Group: "argoproj.io"}, all)
}

// mark notes the directories of a pattern as wanted or not.
func mark(found map[string]bool, root, pattern string, wanted bool) error {
	matches, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
	if err != nil {
		return err
	}
	for _, m := range matches {
		info, err := os.Stat(m)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, m)
		if err != nil {
			return err
		}
		if info.IsDir() {
			found[filepath.ToSlash(rel)] = wanted
		}
	}
	return nil
}

// fill makes an Application of a template.
func fill(text map[string]any, dir string) (*unstructured.Unstructured, error) {
	data, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	t, err := template.New("").Option("missingkey=error").Parse(string(data))
	if err != nil {
		return nil, err
	}
	var filled strings.Builder
	if err := t.Execute(&filled, map[string]any{"path": map[string]any{"path": dir, "basename": path.Base(dir)}}); err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(filled.String()), &u.Object); err != nil {
		return nil, err
	}
	u.SetAPIVersion("argoproj.io/v1alpha1")
	u.SetKind("Application")
	return u, nil
}

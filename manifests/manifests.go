// Package manifests holds what `lockstep install` puts into a cluster: the kinds, the controller and its permissions.
package manifests

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

//go:embed crd/*.yaml rbac/*.yaml controller/*.yaml gate/*.yaml
var files embed.FS

// placeholder stands in the Deployment where the controller's image belongs.
const placeholder = "IMAGE"

// Objects returns everything in the order in which it can be created, with the controller's image filled in.
func Objects(image string) ([]*unstructured.Unstructured, error) {
	if image == "" {
		return nil, errors.New("no image for the controller")
	}
	var objects []*unstructured.Unstructured
	for _, name := range []string{
		"controller/namespace.yaml", "crd", "rbac", "controller/accounts.yaml", "controller/deployment.yaml", "gate",
	} {
		found, err := read(name)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	for _, o := range objects {
		if o.GetKind() == "Deployment" {
			fill(o.Object, image)
		}
	}
	return objects, nil
}

// Definitions returns the CustomResourceDefinitions alone.
func Definitions() ([]*unstructured.Unstructured, error) { return read("crd") }

// Gate returns the admission policies, and their bindings, that hold deploys until their restore point is complete.
func Gate() ([]*unstructured.Unstructured, error) { return read("gate") }

// read parses one file, or all files of a directory.
func read(name string) ([]*unstructured.Unstructured, error) {
	names := []string{name}
	if entries, err := files.ReadDir(name); err == nil {
		names = names[:0]
		for _, e := range entries {
			names = append(names, name+"/"+e.Name())
		}
		slices.Sort(names)
	}
	var objects []*unstructured.Unstructured
	for _, n := range names {
		data, err := files.ReadFile(n)
		if err != nil {
			return nil, fmt.Errorf("reading manifest %q: %w", n, err)
		}
		found, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("parsing manifest %q: %w", n, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

func parse(data []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		o := &unstructured.Unstructured{}
		err := d.Decode(o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// fill replaces every value that is the placeholder.
func fill(v any, image string) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = fill(v[k], image)
		}
	case []any:
		for i := range v {
			v[i] = fill(v[i], image)
		}
	case string:
		if v == placeholder {
			return image
		}
	}
	return v
}

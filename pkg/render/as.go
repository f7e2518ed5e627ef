package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/kustomize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
)

// As says what an engine makes of a directory.
type As struct {
	Path string
	// Kustomization is Flux's, or one that says the same: its patches, images, components, names, namespace, substitutions and common
	// metadata count. Nil builds the directory as it is.
	Kustomization *unstructured.Unstructured
	// Variables are the values of what its postBuild.substituteFrom names. Those of its postBuild.substitute win.
	Variables map[string]string
	// Namespace is where objects go that name none; empty for "default".
	Namespace string
	// Check is asked of the content of each file that is no kustomization; nil if nobody asks.
	Check func(file []byte) error
	// unknown says that a variable which nobody gives has a value that is not known: its reference stays where it is.
	unknown func(name string) bool
	// change is made to the kustomization of the directory.
	change func(kustomization map[string]any) error
	// Ignore are patterns of files that a source of Flux leaves out, beside those that .sourceignore files name; nil where no artifact of Flux
	// is built but the files as they lie.
	Ignore *string
	// Flat leaves out what lies in directories below, where there is no kustomization.
	Flat bool
}

// substitute puts the variables into the objects, as kustomize-controller does by default: a variable that nobody gives is empty.
// It tells of each object, by its index, the variables that are not known.
func (as As) substitute(ctx context.Context, built resmap.ResMap, tell func(i int, unknown []string)) error {
	if as.Kustomization == nil {
		return nil
	}
	postBuild, found, err := unstructured.NestedMap(as.Kustomization.Object, "spec", "postBuild")
	if err != nil || !found {
		return err
	}
	given, _, err := unstructured.NestedStringMap(postBuild, "substitute")
	if err != nil {
		return fmt.Errorf("reading postBuild.substitute: %w", err)
	}
	variables := map[string]any{}
	for name, value := range as.Variables {
		variables[name] = value
	}
	for name, value := range given {
		variables[name] = value
	}
	always := kustomize.SubstituteWithAlways(postBuild["substituteStrategy"] == "Always" || as.unknown != nil)
	for i, r := range built.Resources() {
		all, unknown, err := as.open(r, variables)
		if err != nil {
			return err
		}
		if len(unknown) > 0 {
			tell(i, unknown)
		}
		with := unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"postBuild": map[string]any{"substitute": all}}}}
		name := fmt.Sprintf("%s %s", r.GetKind(), r.GetName())
		replaced, err := kustomize.SubstituteVariables(ctx, nil, with, r, kustomize.SubstituteWithDryRun(true), always)
		if err == nil && replaced != nil {
			_, err = built.Replace(replaced)
		}
		if err != nil {
			return fmt.Errorf("substituting variables in %s: %w", name, conceal(err))
		}
	}
	return nil
}

var reference = regexp.MustCompile(`\$\{?([_a-zA-Z][_a-zA-Z0-9]*)`)

// open adds to the variables those of the object that are not known, with their own references as values. It refuses values that
// would make the object larger than a file may be.
func (as As) open(r *resource.Resource, variables map[string]any) (all map[string]any, unknown []string, err error) {
	if len(variables) == 0 && as.unknown == nil {
		return variables, nil, nil
	}
	text, err := r.AsYAML()
	if err != nil {
		return nil, nil, err
	}
	if r.GetLabels()[substituteKey] == kustomize.DisabledValue || r.GetAnnotations()[substituteKey] == kustomize.DisabledValue {
		return variables, nil, nil
	}
	all = maps.Clone(variables)
	size := int64(len(text))
	for _, m := range reference.FindAllSubmatch(text, -1) {
		name := string(m[1])
		if value, ok := all[name].(string); ok {
			size += int64(len(value))
			continue
		}
		if as.unknown != nil && bytes.HasPrefix(m[0], []byte("${")) && as.unknown(name) {
			all[name] = "${" + name + "}"
			unknown = append(unknown, name)
		}
	}
	if size > defaultBounds.file {
		return nil, nil, tooMuch("with its variables %s %s has more than %d bytes", r.GetKind(), r.GetName(), defaultBounds.file)
	}
	slices.Sort(unknown)
	return all, unknown, nil
}

// substituteKey is a label or annotation by which Flux leaves an object as it is.
const substituteKey = "kustomize.toolkit.fluxcd.io/substitute"

// conceal drops what is said of the text with the values in it: it may repeat one.
func conceal(err error) error {
	if text := err.Error(); strings.Contains(text, "var name is invalid") || strings.Contains(text, "variable substitution failed") {
		return err
	}
	return errors.New("with the values in their places it is no object any more")
}

// label adds the common metadata.
func (as As) label(objects []*unstructured.Unstructured) error {
	if as.Kustomization == nil {
		return nil
	}
	labels, _, err := unstructured.NestedStringMap(as.Kustomization.Object, "spec", "commonMetadata", "labels")
	if err != nil {
		return fmt.Errorf("reading commonMetadata: %w", err)
	}
	annotations, _, err := unstructured.NestedStringMap(as.Kustomization.Object, "spec", "commonMetadata", "annotations")
	if err != nil {
		return fmt.Errorf("reading commonMetadata: %w", err)
	}
	ssautil.SetCommonMetadata(objects, labels, annotations)
	return nil
}

package render

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/kustomize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/resmap"
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
	// Flat leaves out what lies in directories below, where there is no kustomization.
	Flat bool
}

// substitute puts the variables into the objects, as kustomize-controller does by default: a variable that nobody gives is empty.
func (as As) substitute(ctx context.Context, built resmap.ResMap) error {
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
	with := unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"postBuild": map[string]any{"substitute": variables}}}}
	always := kustomize.SubstituteWithAlways(postBuild["substituteStrategy"] == "Always")
	for _, r := range built.Resources() {
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

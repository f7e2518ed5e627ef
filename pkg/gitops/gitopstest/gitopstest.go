// Package gitopstest gives the tests of the adapters a cluster in memory with an engine's objects.
package gitopstest

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Cluster is a cluster in memory.
type Cluster struct {
	gitops.Cluster
	t *testing.T
}

// New makes a cluster that serves the kinds and has the objects of the manifests, each a YAML document.
func New(t *testing.T, kinds []schema.GroupVersionKind, manifests string) *Cluster {
	t.Helper()
	var served []schema.GroupVersion
	for _, kind := range kinds {
		served = append(served, kind.GroupVersion())
	}
	mapper, scheme := meta.NewDefaultRESTMapper(served), runtime.NewScheme()
	for _, kind := range kinds {
		mapper.Add(kind, meta.RESTScopeNamespace)
		scheme.AddKnownTypeWithName(kind, &unstructured.Unstructured{})
		scheme.AddKnownTypeWithName(kind.GroupVersion().WithKind(kind.Kind+"List"), &unstructured.UnstructuredList{})
	}
	c := &Cluster{t: t}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper)
	for _, text := range strings.Split(manifests, "\n---\n") {
		if strings.TrimSpace(text) != "" {
			builder.WithObjects(c.Parse(text))
		}
	}
	inner := builder.Build()
	c.Client, c.Reader = inner, inner
	return c
}

// Parse reads an object.
func (c *Cluster) Parse(manifest string) *unstructured.Unstructured {
	c.t.Helper()
	data, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		c.t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		c.t.Fatal(err)
	}
	return u
}

// Object reads an object that must be there.
func (c *Cluster) Object(key object.Key) *unstructured.Unstructured {
	c.t.Helper()
	u, err := c.Get(c.t.Context(), key.GroupKind(), key.NamespacedName())
	if err != nil || u == nil {
		c.t.Fatalf("reading %s: %v, %v", key, u, err)
	}
	return u
}

// Edit changes an object as somebody else would.
func (c *Cluster) Edit(key object.Key, edit func(u *unstructured.Unstructured)) {
	c.t.Helper()
	u := c.Object(key)
	edit(u)
	if err := c.Client.Update(c.t.Context(), u); err != nil {
		c.t.Fatal(err)
	}
}

// Set sets a field, as what drives an engine would.
func (c *Cluster) Set(key object.Key, value any, fields ...string) {
	c.t.Helper()
	c.Edit(key, func(u *unstructured.Unstructured) {
		if err := unstructured.SetNestedField(u.Object, value, fields...); err != nil {
			c.t.Fatal(err)
		}
	})
}

// Remove removes an object.
func (c *Cluster) Remove(key object.Key) {
	c.t.Helper()
	if err := c.Client.Delete(c.t.Context(), c.Object(key), client.GracePeriodSeconds(0)); err != nil {
		c.t.Fatal(err)
	}
}

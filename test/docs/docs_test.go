// Package docs holds the documents to the code: what they show must be valid, what they must explain must be there, and
// where they point must exist.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

const root = "../.."

// documents are README.md, all of docs/ and what explains the examples, by their names.
func documents(t *testing.T) map[string]string {
	t.Helper()
	names := []string{"README.md"}
	for _, dir := range []string{"docs", "examples"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && filepath.Ext(path) == ".md" {
				name, relErr := filepath.Rel(root, path)
				names, err = append(names, filepath.ToSlash(name)), relErr
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	docs := map[string]string{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		docs[name] = string(data)
	}
	return docs
}

// kinds are the schemas of Lockstep's kinds.
func kinds(t *testing.T) map[string]apiextensionsv1.JSONSchemaProps {
	t.Helper()
	definitions, err := manifests.Definitions()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]apiextensionsv1.JSONSchemaProps{}
	for _, u := range definitions {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, crd); err != nil {
			t.Fatal(err)
		}
		out[crd.Spec.Names.Kind] = *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return out
}

// strict says which fields of an object its kind does not have.
func strict(kind string, data []byte) error {
	into := map[string]any{
		"Vault": &v1alpha1.Vault{}, "ProtectionPolicy": &v1alpha1.ProtectionPolicy{},
		"RestorePoint": &v1alpha1.RestorePoint{}, "Restore": &v1alpha1.Restore{},
	}[kind]
	if into == nil {
		return fmt.Errorf("there is no kind %q", kind)
	}
	return yaml.UnmarshalStrict(data, into)
}

var (
	fenced    = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	separator = regexp.MustCompile(`(?m)^---$`)
)

// example is an object of Lockstep that a document shows.
type example struct {
	document, kind string
	text           []byte
}

func examples(t *testing.T) []example {
	t.Helper()
	var out []example
	for name, text := range documents(t) {
		for _, block := range fenced.FindAllStringSubmatch(text, -1) {
			for _, data := range separator.Split(block[1], -1) {
				var head struct{ APIVersion, Kind string }
				if err := yaml.Unmarshal([]byte(data), &head); err != nil {
					t.Errorf("%s: %v in\n%s", name, err, data)
				} else if head.APIVersion == v1alpha1.GroupVersion.String() {
					out = append(out, example{name, head.Kind, []byte(data)})
				}
			}
		}
	}
	return out
}

// TestExamplesHaveOnlyKnownFields needs no cluster; TestExamplesAreAccepted asks the API server for the rest.
func TestExamplesHaveOnlyKnownFields(t *testing.T) {
	shown := map[string]bool{}
	for _, e := range examples(t) {
		shown[e.kind] = true
		if err := strict(e.kind, e.text); err != nil {
			t.Errorf("%s: %v in\n%s", e.document, err, e.text)
		}
	}
	for kind := range kinds(t) {
		if !shown[kind] {
			t.Errorf("no document shows a %s", kind)
		}
	}
	if err := strict("Vault", []byte("spec: {bucket: b, keySecretRef: {name: k}}")); err == nil {
		t.Error("an unknown field is not noticed")
	}
}

// TestExamplesAreAccepted creates every example, and all that the repositories of examples/ deploy, on a real API server, as a dry run.
func TestExamplesAreAccepted(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT RUN: KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver; `make test` builds them and sets it")
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join(root, "manifests", "crd")}, ErrorIfCRDPathMissing: true,
		CRDInstallOptions: envtest.CRDInstallOptions{MaxTime: 5 * time.Minute}}
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	}()
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range append(examples(t), deployed(t)...) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(e.text, u); err != nil {
			t.Fatal(err)
		}
		namespaced, err := c.IsObjectNamespaced(u)
		if err != nil {
			t.Fatal(err)
		}
		if namespaced {
			u.SetNamespace("default") // the examples' own do not exist there
		}
		if err := c.Create(t.Context(), u, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
			t.Errorf("%s: %v in\n%s", e.document, err, e.text)
		}
	}
}

// TestFieldsAreExplained wants every field of spec and status in the page of its kind.
func TestFieldsAreExplained(t *testing.T) {
	docs := documents(t)
	for name, schema := range kinds(t) {
		page := "docs/kinds/" + strings.ToLower(name) + ".md"
		for _, part := range []string{"spec", "status"} {
			for _, field := range fields(schema.Properties[part]) {
				if !mentions(docs[page], field) {
					t.Errorf("%s does not explain %s.%s", page, part, field)
				}
			}
		}
	}
}

// fields are the names of all fields, without those of kinds that are Kubernetes' own.
func fields(p apiextensionsv1.JSONSchemaProps) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.Properties)) {
		out = append(out, name)
		if name != "conditions" && name != "selector" {
			out = append(out, fields(p.Properties[name])...)
		}
	}
	if p.Items != nil && p.Items.Schema != nil {
		out = append(out, fields(*p.Items.Schema)...)
	}
	return out
}

// mentions looks for a word in code: by itself, as part of a path, or in an example.
func mentions(page, word string) bool {
	return regexp.MustCompile("`(?:[A-Za-z]+\\.)*" + word + "(?:\\.[A-Za-z]+)*`|(?m)[{, ]" + word + ": ").MatchString(page)
}

// TestReasonsHaveACure wants every reason of a condition in troubleshooting.md.
func TestReasonsHaveACure(t *testing.T) {
	page := documents(t)["docs/troubleshooting.md"]
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "pkg/api/v1alpha1/conditions.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found++
		if !strings.Contains(page, "`"+reason+"`") {
			t.Errorf("docs/troubleshooting.md does not have the reason %s", reason)
		}
		return true
	})
	if found == 0 {
		t.Error("conditions.go has no reasons")
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	code    = regexp.MustCompile("(?ms)^```.*?^```$")
	dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinksLeadSomewhere checks links within the repository, with their anchors.
func TestLinksLeadSomewhere(t *testing.T) {
	docs := documents(t)
	for name, text := range docs {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), path))
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: the link %q leads nowhere", name, m[1])
			} else if anchor != "" && !slices.Contains(anchors(docs[target]), anchor) {
				t.Errorf("%s: the link %q leads to no heading; there are %q", name, m[1], anchors(docs[target]))
			}
		}
	}
}

// anchors are the names that forges give to the headings of a page.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
		out = append(out, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return out
}

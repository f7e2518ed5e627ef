package planner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/sops"
)

// files is a repository with one commit.
type files map[string]string

func (f files) Materialise(_ context.Context, _ v1alpha1.Revision, dir string) error {
	for name, content := range f {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

type monorepo struct {
	shop
	files
}

func (m *monorepo) Materialise(ctx context.Context, at v1alpha1.Revision, dir string) error {
	return m.files.Materialise(ctx, at, dir)
}

const source = "  sourceRef: {kind: GitRepository, name: fleet}\n"

func kustomizationText(name, spec string) string {
	return "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: " + name + ", namespace: flux-system}\nspec:\n" + source + spec
}

func kustomizationBuild(t *testing.T, name, spec string) gitops.Build {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(kustomizationText(name, spec)), &u.Object); err != nil {
		t.Fatal(err)
	}
	return gitops.Build{By: "Kustomization flux-system/" + name, Kustomization: u}
}

func configMapText(namespace, name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: " + namespace + ", name: \"" + name + "\"}\ndata: {zone: " + value + "}\n"
}

// TestDeployment: the plan has what the engine will apply, under the names that it will have, of all Kustomizations that follow from the
// one of the path, and variables from where they will be.
func TestDeployment(t *testing.T) {
	vars := "  postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}, {kind: Secret, name: more, optional: true}]}\n"
	commit := files{
		"deploy/settings.yaml": configMapText("shop", "settings-${zone}", "x"),
		"deploy/child.yaml":    kustomizationText("child", "  path: child\n  targetNamespace: other\n"),
		"deploy/same.yaml":     kustomizationText("shop", "  path: ./deploy\n  postBuild: {substitute: {zone: new}}\n"),
		"deploy/away.yaml": kustomizationText("away", "  path: nowhere\n  kubeConfig: {secretRef: {name: a}}\n") + "---\n" +
			kustomizationText("asleep", "  path: nowhere\n  suspend: true\n") + "---\n" +
			strings.Replace(kustomizationText("foreign", "  path: nowhere\n"), "fleet", "others", 1),
		"child/a.yaml": configMapText("shop", "child", "x"),
		"child/b.yaml": kustomizationText("shop", "  path: deploy\n"), // a circle
		"infra/a.yaml": configMapText("flux-system", "vars", "infra"),
	}
	self := kustomizationText("shop", "  path: ./deploy\n"+vars)
	secrets := residual.Set{Secrets: []corev1.Secret{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "flux-system", Name: "more"}, Data: map[string][]byte{"zone": []byte("point")},
	}}}
	for name, tt := range map[string]struct {
		change  files
		builds  []gitops.Build
		cluster map[string]string
		set     residual.Set
		want    []string
		says    string
	}{
		"variables of the cluster": {
			change: files{"deploy/same.yaml": self}, cluster: map[string]string{"vars": "eu"},
			want: []string{"settings-eu in shop", "child in other"},
		},
		"the point's are behind those of the cluster, and win where they come later": {
			change: files{"deploy/same.yaml": self}, cluster: map[string]string{"vars": "eu"}, set: secrets,
			want: []string{"settings-point in shop", "child in other"},
		},
		"variables that the commit brings before": {
			change: files{"deploy/same.yaml": self}, cluster: map[string]string{"vars": "old"},
			builds: []gitops.Build{kustomizationBuild(t, "infra", "  path: infra\n")},
			want:   []string{"settings-infra in shop", "child in other"},
		},
		"a Kustomization that changes itself": {
			change: files{"deploy/child.yaml": ""}, cluster: map[string]string{"vars": "eu"}, want: []string{"settings-new in shop"},
		},
		"variables that are nowhere": {change: files{"deploy/same.yaml": self}, says: "ConfigMap flux-system/vars"},
		"a child that does not render": {
			change: files{"deploy/same.yaml": self, "child/a.yaml": "resources: ["}, cluster: map[string]string{"vars": "eu"}, says: "Kustomization flux-system/child",
		},
	} {
		t.Run(name, func(t *testing.T) {
			all := files{}
			for _, from := range []files{commit, tt.change} {
				for name, content := range from {
					all[name] = content
				}
			}
			p := &Planner{Repository: &monorepo{files: all}, Values: func(_ context.Context, key object.Key) (map[string]string, error) {
				if zone, ok := tt.cluster[key.Name]; ok {
					return map[string]string{"zone": zone}, nil
				}
				return nil, nil
			}}
			builds := append(tt.builds, kustomizationBuild(t, "shop", "  path: ./deploy\n  suspend: true\n"+vars))
			objects, err := p.render(t.Context(), v1alpha1.Revision{Commit: commitID, Path: "deploy"}, &Engine{Builds: builds}, tt.set)
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) || AnswerOf(err) != Unusable {
					t.Fatalf("error %v (%s), want one that says %q", err, AnswerOf(err), tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, u := range objects {
				if u.GetKind() == "ConfigMap" {
					got = append(got, u.GetName()+" in "+u.GetNamespace())
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeploymentUnasked: a cluster that does not answer proves nothing about the commit.
func TestDeploymentUnasked(t *testing.T) {
	down := errors.New("the cluster does not answer")
	p := &Planner{
		Repository: &monorepo{files: files{"deploy/a.yaml": configMap}},
		Values:     func(context.Context, object.Key) (map[string]string, error) { return nil, down },
	}
	b := kustomizationBuild(t, "shop", "  path: deploy\n  postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}\n")
	_, err := p.render(t.Context(), v1alpha1.Revision{Commit: commitID, Path: "deploy"}, &Engine{Builds: []gitops.Build{b}}, residual.Set{})
	if !errors.Is(err, down) || AnswerOf(err) != Unknown {
		t.Errorf("error %v (%s)", err, AnswerOf(err))
	}
	b.Refusals = []string{"it sets helm"}
	_, err = p.render(t.Context(), v1alpha1.Revision{}, &Engine{Engine: &plan.Engine{}, Builds: []gitops.Build{b}}, residual.Set{})
	if err == nil || !strings.Contains(err.Error(), "it sets helm") || AnswerOf(err) != Unusable {
		t.Errorf("error %v", err)
	}
}

// TestMAC: where Lockstep applies the commit itself, a file that was changed after it was encrypted is refused by its name, unless that is
// said not to matter. Where Flux does, it is Flux's to open.
func TestMAC(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("..", "sops", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	keys, err := sops.ParseKeys(map[string][]byte{"k.agekey": []byte(read("key.txt"))})
	if err != nil {
		t.Fatal(err)
	}
	file := read("regex.yaml")
	changed := strings.Replace(file, "name: login", "name: logon", 1)
	flux := &Engine{Engine: &plan.Engine{Name: v1alpha1.EngineFlux}}
	for name, tt := range map[string]struct {
		file   string
		engine *Engine
		ignore bool
		want   error
	}{
		"unchanged": {file: file, engine: &Engine{}}, "changed": {file: changed, engine: &Engine{}, want: sops.ErrMAC},
		"ignored": {file: changed, engine: &Engine{}, ignore: true}, "Flux": {file: changed, engine: flux},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Planner{Repository: &monorepo{files: files{"deploy/login.yaml": tt.file}}, Keys: keys, IgnoreMAC: tt.ignore}
			_, err := p.render(t.Context(), v1alpha1.Revision{Commit: commitID, Path: "deploy"}, tt.engine, residual.Set{})
			if !errors.Is(err, tt.want) || err != nil && (!strings.Contains(err.Error(), "deploy/login.yaml") || AnswerOf(err) != Unusable) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// TestNewEngineStaysAtHome: a Restore outside lockstep-system neither holds what is elsewhere nor asks about it.
func TestNewEngineStaysAtHome(t *testing.T) {
	chosen := plan.Engine{Name: v1alpha1.EngineFlux, Objects: []v1alpha1.EngineObject{
		{Kind: "GitRepository", Namespace: "shop", Name: "shop", Role: v1alpha1.RoleSource},
		{Kind: "Kustomization", Namespace: "flux-system", Name: "shop", Role: v1alpha1.RoleUnit},
	}}
	got, err := NewEngine(t.Context(), gitops.Cluster{}, chosen, gitops.Target{}, "shop")
	if err != nil || len(got.Builds) > 0 || len(chosen.Refusals) > 0 || len(got.Refusals) != 1 ||
		!strings.Contains(got.Refusals[0], "Kustomization flux-system/shop is outside namespace shop") {
		t.Errorf("engine %+v: %v", got, err)
	}
}

package residual_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// TestOnAPIServer captures and brings back through a real API server: its discovery, its metadata lists, its selectors.
func TestOnAPIServer(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT TESTED: no API server: KUBEBUILDER_ASSETS is not set; `make test` builds one and sets it")
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "..", "test", "standin", "crd")}, ErrorIfCRDPathMissing: true,
		CRDInstallOptions: envtest.CRDInstallOptions{MaxTime: 5 * time.Minute}}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	login := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "login"}, Data: map[string][]byte{"password": []byte("hunter2")}}
	creds := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "creds", Labels: map[string]string{"argocd.argoproj.io/secret-type": "repo-creds"}},
		Data:       map[string][]byte{"url": []byte("https://git.example.org"), "password": []byte("hunter3")},
	}
	foreign := creds.DeepCopy()
	foreign.Name, foreign.Data["url"] = "foreign", []byte("https://elsewhere.example.org")
	app := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": map[string]any{"namespace": "argocd", "name": "shop"},
		"spec": map[string]any{
			"project": "default", "source": map[string]any{"repoURL": "https://git.example.org/shop.git", "path": "deploy"},
			"destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": "shop"},
		},
		"status": map[string]any{"resources": []any{map[string]any{"kind": "ConfigMap", "namespace": "shop", "name": "settings"}}},
	}}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "settings", Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop:/ConfigMap:shop/settings"},
	}}
	namespace := func(name string) client.Object { return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	for _, o := range []client.Object{namespace("shop"), namespace("argocd"), login, creds, foreign, app, settings} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	asked, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := residual.Kinds(asked)
	if err != nil {
		t.Fatal(err)
	}
	set, err := residual.Capture(t.Context(), c, residual.Scope{Namespaces: []string{"shop"}, Kinds: kinds})
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, key := range set.Keys() {
		kept = append(kept, key.String())
	}
	if diff := cmp.Diff([]string{"Secret argocd/creds", "Secret shop/login"}, kept); diff != "" {
		t.Fatalf("kept (-want +got):\n%s", diff)
	}
	for _, o := range []client.Object{login, creds} {
		if err := c.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]string{{"create Secret argocd/creds", "create Secret shop/login"}, {"leave Secret argocd/creds", "leave Secret shop/login"}} {
		steps, err := residual.Replay(t.Context(), c, c, set, "point")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range steps {
			got = append(got, string(s.Action)+" "+s.Key.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("brought back (-want +got):\n%s", diff)
		}
	}
	back := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(creds), back); err != nil || string(back.Data["password"]) != "hunter3" ||
		back.Labels["argocd.argoproj.io/secret-type"] != "repo-creds" {
		t.Errorf("came back with labels %v: %v", back.Labels, err)
	}
}

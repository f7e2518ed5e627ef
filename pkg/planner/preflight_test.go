package planner

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// TestInspect plans with a commit that has one image which exists and one which does not.
func TestInspect(t *testing.T) {
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/front:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, empty.Image); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).Build()
	inspector := facts.Inspector{
		Reader: c, Mapper: meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion}),
		Allowed: func(_ context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
			return what.Verb == "*", nil
		},
	}
	for _, ask := range []bool{false, true} {
		s := newScene(t)
		s.repository.manifest = fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: front}
spec: {template: {spec: {containers: [{name: a, image: "%[1]s/front:1"}, {name: b, image: "%[1]s/front:2"}]}}}
`, host)
		s.Facts = func(context.Context, match.Choice, []*unstructured.Unstructured) (plan.Facts, error) {
			return plan.Facts{RestoreNamespace: v1alpha1.SystemNamespace}, nil
		}
		s.Preflight = Inspect(inspector, "", ask)
		replay, err := s.Plan(t.Context(), request(v1alpha1.RestoreFrom{Tag: "v1.0.0"}))
		if err != nil {
			t.Fatal(err)
		}
		refused := strings.Join(replay.Plan.Refusals, "\n")
		if strings.Contains(refused, "front:2, which Deployment shop/front runs, is not in its registry") != ask || strings.Contains(refused, "front:1,") {
			t.Errorf("asked %v: refused %q", ask, refused)
		}
	}
}

// TestPullSecrets: the commit's and the point's own Secrets count, and no others.
func TestPullSecrets(t *testing.T) {
	render := func(manifest any) plan.Object {
		data, err := json.Marshal(manifest)
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(data); err != nil {
			t.Fatal(err)
		}
		return plan.Object{Key: object.KeyOf(u), Manifest: u}
	}
	at := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	secret := metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	p := &plan.Plan{Base: []plan.Object{
		render(corev1.Secret{TypeMeta: secret, ObjectMeta: at("rendered"), StringData: map[string]string{corev1.DockerConfigJsonKey: "{}"}}),
		render(corev1.Secret{TypeMeta: secret, ObjectMeta: at("of-no-concern")}),
		render(corev1.ServiceAccount{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: at("reader"),
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "residual"}},
		}),
	}}
	set := residual.Set{Secrets: []corev1.Secret{{ObjectMeta: at("residual")}, {ObjectMeta: at("login")}}}
	got, err := pullSecrets(p, set, []plan.Image{{PullSecrets: []object.Name{{Namespace: "shop", Name: "rendered"}}, Accounts: []object.Name{{Namespace: "shop", Name: "reader"}}}})
	if err != nil || len(got) != 2 || got[0].Name != "rendered" || string(got[0].Data[corev1.DockerConfigJsonKey]) != "{}" || got[1].Name != "residual" {
		t.Errorf("got %v, %v", got, err)
	}
}

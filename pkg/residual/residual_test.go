package residual_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

var fromGit = map[string]string{v1alpha1.LabelApplicationName: "shop"}

func meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels}
}

func secret(name string, change ...func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: meta(name, nil), Data: map[string][]byte{"k": []byte(name)}}
	for _, f := range change {
		f(s)
	}
	return s
}

// web refers to Secrets in every way there is.
func web(required ...string) *appsv1.Deployment {
	c := corev1.Container{Name: "web"}
	for _, name := range required {
		c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}})
	}
	return &appsv1.Deployment{ObjectMeta: meta("web", fromGit), Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		ServiceAccountName: "web", Containers: []corev1.Container{c},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}},
		Volumes: []corev1.Volume{
			{Name: "optional", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "optional", Optional: new(true)}}}},
	}}}}
}

func capture(objects ...client.Object) (residual.Set, error) {
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objects...).Build()
	return residual.Capture(context.Background(), c, "shop")
}

func names(s residual.Set) (out []string) {
	for _, x := range s.Secrets {
		out = append(out, x.Name)
	}
	return out
}

func TestCapture(t *testing.T) {
	owned := func(kind string) func(*corev1.Secret) {
		return func(s *corev1.Secret) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "x/v1", Kind: kind, Name: "owner", UID: "u"}}
		}
	}
	tests := []struct {
		name    string
		objects []client.Object
		want    []string
	}{
		{"nothing refers to it", []client.Object{web(), secret("login")}, nil},
		{"required", []client.Object{web("login"), secret("login")}, []string{"login"}},
		{"in Git", []client.Object{web("login"), secret("login", func(s *corev1.Secret) { s.Labels = fromGit })}, nil},
		{"in Git by Flux", []client.Object{web("login"), secret("login", func(s *corev1.Secret) {
			s.Labels = map[string]string{"kustomize.toolkit.fluxcd.io/name": "shop"}
		})}, nil},
		{"in Git by Argo CD", []client.Object{web("login"), secret("login", func(s *corev1.Secret) {
			s.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "shop:/Secret:shop/login"}
		})}, nil},
		{"optional and there", []client.Object{web(), secret("optional")}, []string{"optional"}},
		{"pull secrets, of the pod and of its account", []client.Object{web(), secret("registry"), secret("mirror"), secret("foreign"),
			&corev1.ServiceAccount{ObjectMeta: meta("web", nil), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "mirror"}}},
			&corev1.ServiceAccount{ObjectMeta: meta("unused", nil), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "foreign"}}},
		}, []string{"mirror", "registry"}},
		{"a certificate", []client.Object{secret("tls"), &networkingv1.Ingress{ObjectMeta: meta("front", fromGit),
			Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{SecretName: "tls"}}}}}, []string{"tls"}},
		{"an operator's password", []client.Object{web("login"), secret("login", owned("Postgres"))}, []string{"login"}},
		{"made again from elsewhere", []client.Object{web("a", "b"), secret("a", owned("ExternalSecret")), secret("b", owned("SealedSecret"))}, nil},
		{"a token of the control plane", []client.Object{web("login"), secret("login", func(s *corev1.Secret) { s.Type = corev1.SecretTypeServiceAccountToken })}, nil},
		{"another namespace", []client.Object{web(), func() client.Object { s := secret("optional"); s.Namespace = "other"; return s }()}, nil},
		{"what a Deployment's pods refer to is known from the Deployment", []client.Object{secret("old"), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u", Controller: new(true)}}},
			Spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "old"}}}}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := capture(tt.objects...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, names(got)); diff != "" {
				t.Errorf("secrets (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	_, err := capture(web("login"))
	var missing *residual.MissingError
	if !errors.As(err, &missing) || missing.Secret != "shop/login" || missing.By != "Deployment web" {
		t.Errorf("got %v", err)
	}
	byHand := web("login")
	byHand.Labels = nil
	if _, err := capture(byHand); err != nil {
		t.Errorf("an object that is not of Git fails the point: %v", err)
	}
}

func TestUnansweredIsNoAbsence(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(web("login")).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errors.New("timeout")
		},
	}).Build()
	_, err := residual.Capture(t.Context(), c, "shop")
	if missing := (*residual.MissingError)(nil); err == nil || errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
}

func TestSanitiseAndReplay(t *testing.T) {
	set, err := capture(web("login", "present"), secret("present"), secret("login", func(s *corev1.Secret) {
		s.Annotations = map[string]string{"keep": "me", corev1.LastAppliedConfigAnnotation: "{}"}
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "x/v1", Kind: "Postgres", Name: "db", UID: "old-cluster"}}
		s.UID, s.Finalizers = "old", []string{"x/y"}
	}))
	if err != nil {
		t.Fatal(err)
	}
	data, err := residual.Encode(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"old-cluster", "resourceVersion", "uid", "x/y", "last-applied"} {
		if strings.Contains(string(data), gone) {
			t.Errorf("%q is in the document: %s", gone, data)
		}
	}
	if set, err = residual.Decode(data); err != nil {
		t.Fatal(err)
	}
	theirs := secret("present", func(s *corev1.Secret) { s.Data["k"] = []byte("newer") })
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(theirs).Build()
	created, err := residual.Replay(t.Context(), c, set, "the-point")
	if err != nil || len(created) != 1 || created[0].Name != "login" {
		t.Fatalf("created %v, %v", created, err)
	}
	got := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "login"}, got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"keep": "me", v1alpha1.AnnotationOwners: "Postgres/db", v1alpha1.AnnotationRestoredFrom: "the-point"}
	if diff := cmp.Diff(want, got.Annotations); diff != "" || string(got.Data["k"]) != "login" {
		t.Errorf("secret %+v: %s", got, diff)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "present"}, got); err != nil || string(got.Data["k"]) != "newer" {
		t.Errorf("a secret that was there was replaced: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, bad := range []string{``, `{}`, `{"version":2,"secrets":[]}`, `{"version":1,"secrets":[{}]}`, `{"version":1,"other":1}`,
		`{"version":1,"secrets":[]} x`, `{"version":1,"secrets":[{"metadata":{"name":"a"},"data":{"k":"!SECRET"}}]}`} {
		_, err := residual.Decode([]byte(bad))
		if !errors.Is(err, residual.ErrInvalid) {
			t.Errorf("%s: got %v", bad, err)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Error("a value is in the error")
		}
	}
}

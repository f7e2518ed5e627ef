package podexec_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/lockstep-dr/lockstep/controller/internal/podexec"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// TestRefused has what an API server itself refuses. That commands run, and how they end, test/e2e proves with a real kubelet.
func TestRefused(t *testing.T) {
	cfg, c := testenv.Start(t, scheme.Scheme)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "db-0"},
		Spec: corev1.PodSpec{AutomountServiceAccountToken: new(false), ServiceAccountName: "default",
			Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "default"}}
	if err := c.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	stranger := rest.CopyConfig(cfg)
	stranger.Impersonate = rest.ImpersonationConfig{UserName: "stranger"}
	nowhere := rest.CopyConfig(cfg)
	nowhere.Host, nowhere.Timeout = "https://127.0.0.1:1", 5*time.Second
	for _, tt := range []struct {
		name   string
		config *rest.Config
		pod    string
		says   string
	}{
		{"no such pod", cfg, "db-1", `"db-1" not found`},
		{"not on a node", cfg, "db-0", "does not have a host assigned"},
		{"not permitted", stranger, "db-0", `cannot create resource "pods/exec"`},
		{"no API server", nowhere, "db-0", "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kube, err := kubernetes.NewForConfig(tt.config)
			if err != nil {
				t.Fatal(err)
			}
			e := &podexec.Executor{Config: tt.config, Kube: kube}
			_, err = e.Run(t.Context(), podexec.Target{Namespace: v1alpha1.SystemNamespace, Pod: tt.pod, Container: "main"}, "true")
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want it to say %q", err, tt.says)
			}
		})
	}
}

package argocd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

const (
	running  = "1111111111111111111111111111111111111111"
	approved = "2222222222222222222222222222222222222222"
	other    = "3333333333333333333333333333333333333333"
)

// TestStrict: before a real API server only approved syncs begin, and only who may approve does. The one who syncs plays Argo CD.
func TestStrict(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT RUN: KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver; `make test` builds them and sets it")
	}
	env := &envtest.Environment{ErrorIfCRDPathMissing: true, CRDDirectoryPaths: []string{filepath.Join("..", "standin", "crd", "argocd.yaml")}}
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	admin := connect(t, cfg, "")
	create := func(c client.Client, objects ...client.Object) {
		t.Helper()
		for _, o := range objects {
			if err := c.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	mayChange := rbacv1.PolicyRule{APIGroups: []string{"argoproj.io"}, Resources: []string{"applications"}, Verbs: []string{"get", "create", "update", "patch"}}
	mayApprove := mayChange
	mayApprove.Verbs = append([]string{"approve"}, mayChange.Verbs...)
	create(admin, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "argocd"}})
	for name, rule := range map[string]rbacv1.PolicyRule{
		"argocd": mayChange, "ci": mayApprove, "system:serviceaccount:lockstep-system:lockstep-controller": mayChange,
	} {
		role := strings.ReplaceAll(name, ":", "-")
		create(admin,
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: role}, Rules: []rbacv1.PolicyRule{rule}},
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: role},
				RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
				Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}})
	}
	for _, r := range build(t, examples("strict")).Resources() {
		o, err := r.Map()
		if err != nil {
			t.Fatal(err)
		}
		create(admin, &unstructured.Unstructured{Object: o})
	}
	argo := connect(t, cfg, "argocd")
	ready := func() bool { // the policies are enforced a moment after they are made
		err := argo.Create(t.Context(), app("probe", "3"), client.DryRunAll)
		return apierrors.IsInvalid(err) || apierrors.IsForbidden(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !ready(); {
		if time.Now().After(deadline) {
			t.Fatal("the policies are not enforced")
		}
		time.Sleep(50 * time.Millisecond)
	}

	history := func(entry map[string]any) []any {
		entry["id"], entry["deployedAt"] = int64(0), "2026-01-01T00:00:00Z"
		return []any{map[string]any{"id": int64(0), "deployedAt": "2026-01-01T00:00:00Z", "revision": other}, entry}
	}
	one, several := history(map[string]any{"revision": running}), history(map[string]any{"revision": "", "revisions": []any{running, "1.2.3"}})
	sync := func(revisions ...any) map[string]any {
		if len(revisions) == 1 {
			return map[string]any{"revision": revisions[0]}
		}
		return map[string]any{"revisions": revisions}
	}
	for name, c := range map[string]struct {
		history  []any
		approved string
		ungated  bool
		as       string // argocd by default
		sync     map[string]any
		edit     func(u *unstructured.Unstructured)
		refused  string
	}{
		"what is approved":                     {history: one, approved: approved, sync: sync(approved)},
		"what is not approved":                 {history: one, approved: approved, sync: sync(other), refused: "holds the sync to " + other + " back"},
		"nothing is approved":                  {history: one, sync: sync(approved), refused: "holds the sync to " + approved},
		"self-heal to what runs":               {history: one, sync: sync(running)},
		"back to what ran before":              {history: one, sync: sync(other), refused: "holds the sync to " + other},
		"no revision":                          {history: one, sync: map[string]any{"prune": true}, refused: "no named revision"},
		"a branch":                             {history: one, approved: approved, sync: sync("main"), refused: "holds the sync to main"},
		"the first sync":                       {sync: sync(approved)},
		"several sources, approved":            {history: several, approved: approved + ",1.2.4", sync: sync(approved, "1.2.4")},
		"several sources, one is not approved": {history: several, approved: approved + ",1.2.3", sync: sync(approved, "1.2.4"), refused: "holds the sync to " + approved + ",1.2.4"},
		"several sources, one has no name":     {history: several, approved: approved + ",", sync: sync(approved, ""), refused: "holds the sync"},
		"several sources, self-heal":           {history: several, sync: sync(running, "1.2.3")},
		"an Application that is not gated":     {history: one, ungated: true, sync: sync(other)},
		"a Restore":                            {history: one, as: "system:serviceaccount:lockstep-system:lockstep-controller", sync: sync(other)},
		"the gate is taken away with the sync": {history: one, sync: sync(other), refused: "holds the sync", edit: func(u *unstructured.Unstructured) {
			u.SetAnnotations(nil)
		}},
		"the history is forged with the sync": {history: one, sync: sync(other), refused: "holds the sync", edit: func(u *unstructured.Unstructured) {
			delete(u.Object, "status")
		}},
		"what approves itself": {history: one, sync: sync(other), refused: "takes the verb approve", edit: func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{v1alpha1.AnnotationPreDeploy: "required", v1alpha1.AnnotationApprovedRevision: other})
		}},
		"who may approve": {history: one, as: "ci", edit: func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{v1alpha1.AnnotationPreDeploy: "required", v1alpha1.AnnotationApprovedRevision: approved})
		}},
		"an approval may be taken away": {history: one, approved: approved, edit: func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{v1alpha1.AnnotationPreDeploy: "required"})
		}},
		"what is no sync": {history: one, edit: func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"team": "shop"}) }},
	} {
		t.Run(name, func(t *testing.T) {
			u := app("shop", "")
			annotations := map[string]string{v1alpha1.AnnotationPreDeploy: "required"}
			if c.ungated {
				annotations = map[string]string{"a": "b"}
			}
			if c.approved != "" {
				annotations[v1alpha1.AnnotationApprovedRevision] = c.approved
			}
			u.SetAnnotations(annotations)
			if c.history != nil {
				u.Object["status"] = map[string]any{"history": c.history}
			}
			create(admin, u)
			defer func() {
				if err := admin.Delete(t.Context(), u); err != nil {
					t.Error(err)
				}
			}()
			if c.sync != nil {
				u.Object["operation"] = map[string]any{"sync": c.sync}
			}
			if c.edit != nil {
				c.edit(u)
			}
			who := argo
			if c.as != "" {
				who = connect(t, cfg, c.as)
			}
			err := who.Update(t.Context(), u)
			if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("refused: %v; want it about %q", err, c.refused)
			}
		})
	}
}

func app(name, approved string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
		"spec": map[string]any{"project": "default", "destination": map[string]any{"server": "https://kubernetes.default.svc"}},
	}}
	u.SetNamespace("argocd")
	u.SetName(name)
	if approved != "" {
		u.SetAnnotations(map[string]string{v1alpha1.AnnotationApprovedRevision: approved})
	}
	return u
}

// connect connects as a user; as the administrator if that is empty.
func connect(t *testing.T, cfg *rest.Config, user string) client.Client {
	t.Helper()
	cfg = rest.CopyConfig(cfg)
	if user != "" {
		cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

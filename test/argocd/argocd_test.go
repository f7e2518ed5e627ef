// Package argocd tests what examples/argocd gives to Argo CD: the health checks run as Argo CD runs them, the components are built with
// kustomize, and the policies of strict mode stand before a real API server.
package argocd

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func examples(elem ...string) string {
	return filepath.Join(append([]string{"..", "..", "examples", "argocd"}, elem...)...)
}

func build(t *testing.T, dir string) resmap.ResMap {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	built, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// health runs a check as Argo CD 3 does: without the libraries for strings, files and the system, within a second.
func health(t *testing.T, script string, o any) (status, message string) {
	t.Helper()
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	l.SetContext(ctx)
	l.SetGlobal("obj", value(l, o))
	if err := l.DoString(script); err != nil {
		t.Fatalf("the check fails: %v", err)
	}
	result, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the check gives %v", l.Get(-1))
	}
	return lua.LVAsString(result.RawGetString("status")), lua.LVAsString(result.RawGetString("message"))
}

// value is what JSON holds as a value of Lua.
func value(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case int64:
		return lua.LNumber(v)
	case string:
		return lua.LString(v)
	case []any:
		table := l.CreateTable(len(v), 0)
		for _, item := range v {
			table.Append(value(l, item))
		}
		return table
	case map[string]any:
		table := l.CreateTable(0, len(v))
		for key, item := range v {
			table.RawSetString(key, value(l, item))
		}
		return table
	}
	return lua.LNil
}

func TestHealth(t *testing.T) {
	script, err := os.ReadFile(examples("health", "health.lua"))
	if err != nil {
		t.Fatal(err)
	}
	condition := func(kind, status, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: "m", LastTransitionTime: metav1.Now()}
	}
	ready := func(status, reason string, more ...metav1.Condition) []metav1.Condition {
		return append([]metav1.Condition{condition(v1alpha1.ConditionReady, status, reason)}, more...)
	}
	reconciling, stalled := condition(v1alpha1.ConditionReconciling, "True", "Progressing"), condition(v1alpha1.ConditionStalled, "True", "SaveFailed")
	object := func(kind string, conditions []metav1.Condition) runtime.Object {
		about := metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
		name := metav1.ObjectMeta{Namespace: "shop", Name: "shop", Generation: 2}
		switch kind {
		case "Vault":
			return &v1alpha1.Vault{TypeMeta: about, ObjectMeta: name, Status: v1alpha1.VaultStatus{ObservedGeneration: 2, Conditions: conditions}}
		case "ProtectionPolicy":
			return &v1alpha1.ProtectionPolicy{TypeMeta: about, ObjectMeta: name, Status: v1alpha1.ProtectionPolicyStatus{ObservedGeneration: 2, Conditions: conditions}}
		case "Restore":
			return &v1alpha1.Restore{TypeMeta: about, ObjectMeta: name, Status: v1alpha1.RestoreStatus{ObservedGeneration: 2, Conditions: conditions}}
		}
		return &v1alpha1.RestorePoint{TypeMeta: about, ObjectMeta: name, Status: v1alpha1.RestorePointStatus{ObservedGeneration: 2, Conditions: conditions}}
	}
	all := []string{"Vault", "ProtectionPolicy", "RestorePoint", "Restore"}
	for name, c := range map[string]struct {
		kinds      []string
		conditions []metav1.Condition
		observed   float64 // 2 by default
		want       string
		says       string
	}{
		"no condition":               {kinds: all, want: "Progressing", says: "has not looked at it yet"},
		"changed since":              {kinds: all, conditions: ready("True", "Succeeded"), observed: 1, want: "Progressing", says: "has not looked at the change"},
		"ready":                      {kinds: all, conditions: ready("True", "Succeeded"), want: "Healthy", says: "Succeeded: m"},
		"under way":                  {kinds: all, conditions: ready("Unknown", "Progressing", reconciling), want: "Progressing", says: "Progressing: m"},
		"not known":                  {kinds: all, conditions: ready("Unknown", "Unreachable"), want: "Progressing", says: "Unreachable: m"},
		"ended":                      {kinds: all, conditions: ready("False", "SaveFailed", stalled), want: "Degraded", says: "SaveFailed: m"},
		"suspended":                  {kinds: []string{"ProtectionPolicy"}, conditions: ready("True", v1alpha1.ReasonSuspended), want: "Suspended"},
		"a promise that is not kept": {kinds: []string{"Vault", "ProtectionPolicy"}, conditions: ready("False", "VaultNotReady"), want: "Degraded", says: "VaultNotReady: m"},
		"waits for what it needs":    {kinds: []string{"RestorePoint", "Restore"}, conditions: ready("False", "VaultNotReady"), want: "Progressing", says: "VaultNotReady: m"},
		"an RPO that is not kept is not a deploy that failed": {kinds: []string{"ProtectionPolicy"},
			conditions: ready("True", "Protecting", condition(v1alpha1.ConditionObjectiveMet, "False", "ObjectiveMissed")), want: "Healthy"},
	} {
		for _, kind := range c.kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				o := plain(t, object(kind, c.conditions))
				if c.observed != 0 {
					o["status"].(map[string]any)["observedGeneration"] = c.observed
				}
				status, message := health(t, string(script), o)
				if status != c.want || !strings.Contains(message, c.says) {
					t.Errorf("%s: %s", status, message)
				}
			})
		}
	}
	for _, kind := range all {
		o := plain(t, object(kind, nil))
		delete(o, "status")
		if status, _ := health(t, string(script), o); status != "Progressing" {
			t.Errorf("a %s without a status is %s", kind, status)
		}
	}
}

// plain is an object as JSON has it.
func plain(t *testing.T, o any) map[string]any {
	t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestHealthComponent: the check reaches argocd-cm for every kind that Argo CD may meet, beside what is there.
func TestHealthComponent(t *testing.T) {
	dir, err := os.MkdirTemp(examples(), "test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{
		"kustomization.yaml": "namespace: argocd\nresources: [cm.yaml]\ncomponents: [../health]\n",
		"cm.yaml":            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: argocd-cm}\ndata: {url: https://argocd.example.org}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	built := build(t, dir).Resources()
	if len(built) != 1 || built[0].GetName() != "argocd-cm" {
		t.Fatalf("%v", built)
	}
	data := built[0].GetDataMap()
	if data["url"] == "" {
		t.Error("what was there is lost")
	}
	for _, kind := range []string{"Vault", "ProtectionPolicy", "RestorePoint", "Restore"} {
		if !strings.Contains(data["resource.customizations.health.lockstep.dev_"+kind], "return hs") {
			t.Errorf("%s has no check", kind)
		}
	}
}

// TestHooks: the hooks save by the one policy of the application, in its namespace, and before what else runs before a sync.
func TestHooks(t *testing.T) {
	found := map[string]map[string]any{}
	for _, r := range build(t, examples("shop")).Resources() {
		o, err := r.Map()
		if err != nil {
			t.Fatal(err)
		}
		found[r.GetKind()+" "+r.GetName()] = o
		if strings.HasPrefix(r.GetName(), "lockstep-") && r.GetNamespace() != "shop" {
			t.Errorf("%s is in namespace %q", r.GetName(), r.GetNamespace())
		}
	}
	for _, c := range []struct{ name, hook, wave, arguments string }{
		{"ServiceAccount lockstep-hook", "PreSync", "-1001", ""}, {"Role lockstep-hook", "PreSync", "-1001", ""}, {"RoleBinding lockstep-hook", "PreSync", "-1001", ""},
		{"Job lockstep-presync", "PreSync", "-1000", "backup shop --argocd-presync --argocd-application=$(APPLICATION) --timeout=55m"},
		{"Job lockstep-postsync", "PostSync", "1000", "backup shop --argocd-postsync --argocd-application=$(APPLICATION)"},
	} {
		var o struct {
			Metadata metav1.ObjectMeta
			Spec     struct {
				Template struct {
					Spec struct {
						ServiceAccountName string
						Containers         []struct {
							Image string
							Args  []string
							Env   []struct{ Name, Value string }
						}
					}
				}
			}
		}
		data, err := json.Marshal(found[c.name])
		if err == nil {
			err = json.Unmarshal(data, &o)
		}
		if err != nil {
			t.Fatal(err)
		}
		a := o.Metadata.Annotations
		if a["argocd.argoproj.io/hook"] != c.hook || a["argocd.argoproj.io/sync-wave"] != c.wave || a["argocd.argoproj.io/hook-delete-policy"] != "BeforeHookCreation" {
			t.Errorf("%s: %v", c.name, a)
		}
		if c.arguments == "" {
			continue
		}
		pod := o.Spec.Template.Spec
		if pod.ServiceAccountName != "lockstep-hook" || len(pod.Containers) != 1 || strings.Join(pod.Containers[0].Args, " ") != c.arguments ||
			pod.Containers[0].Image != "lockstep.test/controller:dev" || pod.Containers[0].Env[0].Value != "argocd/shop" {
			t.Errorf("%s: %+v", c.name, pod)
		}
	}
}

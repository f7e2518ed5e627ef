package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

func TestPolicies(t *testing.T) {
	got := Policies(parse(t, `
{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: zed, namespace: b}}
---
{apiVersion: v1, kind: Secret, metadata: {name: zed, namespace: b}}
---
{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: why, namespace: b}}
---
{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: zed, namespace: a}}
`))
	want := []types.NamespacedName{{Namespace: "a", Name: "zed"}, {Namespace: "b", Name: "why"}, {Namespace: "b", Name: "zed"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
}

func parse(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for _, doc := range strings.Split(manifests, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, u)
	}
	return objects
}

// cluster is a real API server, without the controllers that would give objects a status: tests write that themselves.
type cluster struct {
	client.Client
	config *rest.Config
}

// application is the one that tests apply for.
func application() types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: "policy"}
}

func TestCluster(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT TESTED: no API server: KUBEBUILDER_ASSETS is not set; `make test` builds one and sets it")
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../../manifests/crd/lockstep.dev_protectionpolicies.yaml"}, ErrorIfCRDPathMissing: true,
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
	shared := &cluster{c, config}
	for name, test := range map[string]func(*testing.T, *cluster){
		"stages":                testStages,
		"again":                 testAgain,
		"new kind, known group": testNewKind,
		"dry run first":         testDryRunFirst,
		"refusals":              testRefusals,
		"foreign fields":        testForeignFields,
		"health":                testHealth,
		"wait":                  testWait,
		"stamp":                 testStamp,
		"put":                   testPut,
		"put, being deleted":    testPutDeleting,
		"usable":                testUsable,
		"many":                  testMany,
	} {
		t.Run(name, func(t *testing.T) { test(t, shared) })
	}
}

func (c *cluster) get(t *testing.T, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	live := o.DeepCopy()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), live); err != nil {
		t.Fatal(err)
	}
	return live
}

// exists says whether an object is there.
func (c *cluster) exists(t *testing.T, o *unstructured.Unstructured) bool {
	t.Helper()
	err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o.DeepCopy())
	if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
		t.Fatal(err)
	}
	return err == nil
}

// namespace makes one for a test alone.
func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{}
	ns.GenerateName = "test-"
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// setStatus plays the controller of an object.
func (c *cluster) setStatus(t *testing.T, o *unstructured.Unstructured, status string) {
	t.Helper()
	live := c.get(t, o)
	var value map[string]any
	if err := yaml.Unmarshal([]byte(status), &value); err != nil {
		t.Fatal(err)
	}
	live.Object["status"] = value
	if err := c.Status().Update(t.Context(), live); err != nil {
		t.Fatal(err)
	}
}

func actions(entries []Entry) map[string]Action {
	got := map[string]Action{}
	for _, e := range entries {
		got[e.Key.String()] = e.Action
	}
	return got
}

// definition is a CustomResourceDefinition of stages.example.com.
func definition(kind, scope string) string {
	plural := strings.ToLower(kind) + "s"
	return fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %s.stages.example.com},
 spec: {group: stages.example.com, scope: %s, names: {kind: %s, plural: %s}, versions: [
  {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}},
  {name: v0, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}]}}`, plural, scope, kind, plural)
}

// stages has every object before what it needs.
func stages() string {
	return strings.Join([]string{
		`{apiVersion: stages.example.com/v1, kind: Widget, metadata: {name: w, namespace: staged}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: staged}, data: {k: v}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: unplaced}, data: {k: v}}`,
		`{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: staged}, provisioner: example.com}`,
		`{apiVersion: stages.example.com/v1, kind: Global, metadata: {name: g, namespace: misplaced}}`,
		`{apiVersion: v1, kind: Namespace, metadata: {name: staged}}`,
		definition("Global", "Cluster"),
		definition("Widget", "Namespaced"),
	}, "\n---\n")
}

func testStages(t *testing.T, c *cluster) {
	objects := parse(t, stages())
	before := parse(t, stages())
	entries, err := New(c, application()).Apply(t.Context(), objects)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Action{
		"CustomResourceDefinition globals.stages.example.com": Created,
		"CustomResourceDefinition widgets.stages.example.com": Created,
		"Namespace staged":                   Created,
		"StorageClass staged":                Created,
		"ConfigMap staged/c":                 Created,
		"ConfigMap default/unplaced":         Created,
		"Widget.stages.example.com staged/w": Created,
		"Global.stages.example.com g":        Created,
	}
	if diff := cmp.Diff(want, actions(entries)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, objects); diff != "" {
		t.Errorf("the objects given were modified:\n%s", diff)
	}
	live := c.get(t, objects[1])
	labels := map[string]string{v1alpha1.LabelApplicationName: "policy", v1alpha1.LabelApplicationNamespace: "shop"}
	if diff := cmp.Diff(labels, live.GetLabels()); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if m := live.GetManagedFields(); len(m) != 1 || m[0].Manager != v1alpha1.FieldManager {
		t.Errorf("managed fields: %v", m)
	}
}

func testAgain(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	objects := parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: `+ns+`}, data: {k: v}}`)
	a := New(c, application())
	for i, want := range []Action{Created, Unchanged, Configured, Unchanged} {
		if i == 2 {
			objects[0].Object["data"] = map[string]any{"other": "v"}
		}
		entries, err := a.Apply(t.Context(), objects)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 || entries[0].Action != want {
			t.Errorf("time %d: %v, want %s", i+1, entries, want)
		}
	}
	if data := c.get(t, objects[0]).Object["data"]; !cmp.Equal(data, map[string]any{"other": "v"}) {
		t.Errorf("data is %v: what left Git is still there", data)
	}
}

// testNewKind defines a kind in a group whose other kinds the client knows already.
func testNewKind(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	a := New(c, application())
	for _, kind := range []string{"Early", "Late"} {
		objects := parse(t, definition(kind, "Namespaced")+"\n---\n{apiVersion: stages.example.com/v1, kind: "+kind+", metadata: {name: x, namespace: "+ns+"}}")
		if _, err := a.Apply(t.Context(), objects); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func testDryRunFirst(t *testing.T, c *cluster) {
	objects := parse(t, `
{apiVersion: v1, kind: Namespace, metadata: {name: dry}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: good, namespace: dry}}
---
{apiVersion: v1, kind: Service, metadata: {name: bad, namespace: dry}, spec: {ports: [{port: 99999}]}}
`)
	entries, err := New(c, application()).Apply(t.Context(), objects)
	var refused *ObjectError
	if !errors.As(err, &refused) || refused.Key != object.KeyOf(objects[2]) || !apierrors.IsInvalid(err) {
		t.Fatalf("got error %v, want an ObjectError that names the Service", err)
	}
	if !strings.HasPrefix(err.Error(), "Service dry/bad: ") || strings.Count(err.Error(), "dry/bad") != 1 || !strings.Contains(err.Error(), "99999") {
		t.Errorf("got error %q", err)
	}
	if want := (map[string]Action{"Namespace dry": Created}); !cmp.Equal(want, actions(entries)) {
		t.Errorf("entries: %v, want those of the stages that were done", entries)
	}
	if c.exists(t, objects[1]) {
		t.Error("the stage was begun though one of its objects cannot be")
	}
}

func testRefusals(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	for name, test := range map[string]struct{ manifest, says string }{
		"unknown kind":      {`{apiVersion: none.example.com/v1, kind: X, metadata: {name: x, namespace: NS}}`, "X.none.example.com NS/x: the cluster does not know this kind"},
		"missing namespace": {`{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: none}}`, `ConfigMap none/x: namespaces "none" not found`},
		"unknown field":     {`{apiVersion: v1, kind: Service, metadata: {name: x, namespace: NS}, spec: {prots: []}}`, "prots"},
		"Secret, bad key":   {`{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: NS}, stringData: {"a b": hunter2}}`, "Secret NS/x: Invalid"},
		"Secret, bad value": {`{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: NS}, data: {a: hunter2-is-no-base64}}`, "Secret NS/x: "},
		"Secret, bad type":  {`{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: NS}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: hunter2}}`, "dockerconfigjson"},
		"Secret, number":    {`{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: NS}, stringData: {a: [hunter2]}}`, "Secret NS/x: "},
	} {
		t.Run(name, func(t *testing.T) {
			objects := parse(t, strings.ReplaceAll(test.manifest, "NS", ns))
			_, err := New(c, application()).Apply(t.Context(), objects)
			var refused *ObjectError
			if says := strings.ReplaceAll(test.says, "NS", ns); !errors.As(err, &refused) || !strings.Contains(err.Error(), says) {
				t.Errorf("got error %v, want an ObjectError that says %q", err, says)
			}
			if strings.Contains(fmt.Sprintf("%v %+v", err, err), "hunter2") {
				t.Errorf("the error shows a value of the Secret: %v", err)
			}
		})
	}
}

// testForeignFields is what a reserved claim needs: Git's manifest does not take away what others have set.
func testForeignFields(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	claim := parse(t, `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: `+ns+`},
 spec: {accessModes: [ReadWriteOnce], storageClassName: x, resources: {requests: {storage: 1Gi}}}}`)
	reserved := claim[0].DeepCopy()
	_ = unstructured.SetNestedField(reserved.Object, "pv-1", "spec", "volumeName")
	reserved.SetLabels(map[string]string{v1alpha1.LabelRestore: "u"})
	if err := c.Create(t.Context(), reserved); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, application()).Apply(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	live := c.get(t, claim[0])
	if v, _, _ := unstructured.NestedString(live.Object, "spec", "volumeName"); v != "pv-1" || live.GetLabels()[v1alpha1.LabelRestore] != "u" {
		t.Errorf("volumeName is %q, labels are %v", v, live.GetLabels())
	}
}

const workloads = `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS}, spec: {replicas: 1, selector: {matchLabels: {a: b}},
 template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: job, namespace: NS}, spec: {ttlSecondsAfterFinished: 5,
 template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: lazy, namespace: NS},
 spec: {accessModes: [ReadWriteOnce], storageClassName: lazy-NS, resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: eager, namespace: NS},
 spec: {accessModes: [ReadWriteOnce], storageClassName: eager-NS, resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}}
---
{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: p, namespace: NS}, spec: {vaults: [v]}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: lazy-NS}, provisioner: example.com, volumeBindingMode: WaitForFirstConsumer}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: eager-NS}, provisioner: example.com, volumeBindingMode: Immediate}
`

const (
	available = `{observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1,
 conditions: [{type: Available, status: "True"}, {type: Progressing, status: "True", reason: NewReplicaSetAvailable}]}`
	stuck    = `{observedGeneration: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, message: too long}]}`
	running  = `{startTime: "2026-01-01T00:00:00Z", active: 1}`
	complete = `{startTime: "2026-01-01T00:00:00Z", completionTime: "2026-01-01T00:00:01Z", succeeded: 1, conditions: [
 {type: SuccessCriteriaMet, status: "True", lastTransitionTime: "2026-01-01T00:00:01Z"}, {type: Complete, status: "True", lastTransitionTime: "2026-01-01T00:00:01Z"}]}`
)

func testHealth(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	objects := parse(t, strings.ReplaceAll(workloads, "NS", ns))
	web, job, policy := objects[0], objects[1], objects[5]
	a := New(c, application())
	unknown := parse(t, `{apiVersion: none.example.com/v1, kind: X, metadata: {name: x, namespace: x}}`)
	health := func() []Health {
		t.Helper()
		got, err := a.Health(t.Context(), slices.Concat(objects[:6], unknown))
		if err != nil {
			t.Fatal(err)
		}
		var list []Health
		for _, o := range slices.Concat(objects[:6], unknown) {
			list = append(list, got[object.KeyOf(o)].Health)
		}
		return list
	}
	expect := func(step string, want ...Health) {
		t.Helper()
		if diff := cmp.Diff(append(want, NotFound), health()); diff != "" {
			t.Errorf("%s: deployment, job, lazy and eager claim, config map, policy, unknown (-want +got):\n%s", step, diff)
		}
	}
	expect("before", NotFound, NotFound, NotFound, NotFound, NotFound, NotFound)
	if _, err := a.Apply(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
	expect("applied", InProgress, InProgress, Current, InProgress, Current, Current)
	c.setStatus(t, web, stuck)
	c.setStatus(t, job, running)
	c.setStatus(t, policy, `{conditions: [{type: Stalled, status: "True", reason: X, message: x, lastTransitionTime: "2026-01-01T00:00:00Z"}]}`)
	expect("stuck", Failed, InProgress, Current, InProgress, Current, Current)
	c.setStatus(t, web, available)
	c.setStatus(t, job, complete)
	c.setStatus(t, objects[3], `{phase: Bound}`)
	expect("done", Current, Current, Current, Current, Current, Current)

	over, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := a.Health(over, objects); err == nil {
		t.Errorf("without an answer the health is %v", got)
	}
}

func testWait(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	objects := parse(t, strings.ReplaceAll(workloads, "NS", ns))
	web, job := objects[0], objects[1]
	watched := []*unstructured.Unstructured{web, job, objects[4]}
	a := New(c, application())
	if _, err := a.Apply(t.Context(), objects); err != nil {
		t.Fatal(err)
	}

	err := a.Wait(t.Context(), watched, time.Nanosecond, nil)
	var unhealthy *UnhealthyError
	if !errors.As(err, &unhealthy) || len(unhealthy.Objects) != 2 || !strings.HasPrefix(err.Error(), "not healthy after 1ns: Deployment "+ns+"/web is InProgress (") ||
		!strings.Contains(err.Error(), "; Job "+ns+"/job is InProgress (") {
		t.Errorf("timeout: got error %v", err)
	}

	c.setStatus(t, web, stuck)
	if err := a.Wait(t.Context(), watched, time.Hour, nil); !errors.As(err, &unhealthy) || !strings.Contains(err.Error(), "web is Failed (") {
		t.Errorf("failed: got error %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	c.setStatus(t, web, running)
	if err := a.Wait(ctx, watched, time.Hour, func(map[object.Key]Status) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}

	var seen []map[object.Key]Status
	err = a.Wait(t.Context(), watched, time.Minute, func(changed map[object.Key]Status) {
		seen = append(seen, changed)
		switch len(seen) {
		case 1:
			c.setStatus(t, web, available)
		case 2: // its time to live is over
			if err := c.Delete(t.Context(), job.DeepCopy(), client.PropagationPolicy("Background")); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != 3 || len(seen[0]) != 3 || len(seen[1]) != 1 || seen[1][object.KeyOf(web)].Health != Current || seen[2][object.KeyOf(job)].Health != Current {
		t.Errorf("progress: %v", seen)
	}
}

func testStamp(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	policy := parse(t, `{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: p, namespace: `+ns+`, annotations: {from: git}}, spec: {vaults: [v]}}`)
	name := types.NamespacedName{Namespace: ns, Name: "p"}
	a := New(c, application())
	commit := strings.Repeat("a", 40)
	rev := v1alpha1.Revision{Repository: "https://example.com/shop", Ref: "v1.0.0", Commit: commit, Path: "deploy", Tree: strings.Repeat("1", 40)}
	if err := a.StampRevision(t.Context(), name, rev); !apierrors.IsNotFound(err) || c.exists(t, policy[0]) {
		t.Fatalf("no policy: got error %v", err)
	}
	apply := func() {
		t.Helper()
		if _, err := a.Apply(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	want := map[string]string{
		"from": "git", v1alpha1.AnnotationRepository: "https://example.com/shop", v1alpha1.AnnotationPath: "deploy",
		v1alpha1.AnnotationRevision: "v1.0.0@sha1:" + commit, v1alpha1.AnnotationTree: rev.Tree,
	}
	for _, ref := range []string{"v1.0.0", "v2.0.0"} {
		rev.Ref = ref
		want[v1alpha1.AnnotationRevision] = ref + "@sha1:" + commit
		if err := a.StampRevision(t.Context(), name, rev); err != nil {
			t.Fatal(err)
		}
		apply() // from Git again: the stamp stays
		if diff := cmp.Diff(want, c.get(t, policy[0]).GetAnnotations()); diff != "" {
			t.Errorf("annotations (-want +got):\n%s", diff)
		}
	}
}

// TestFinishJobs: a Job that is gone has finished only if something removes it then.
func TestFinishJobs(t *testing.T) {
	for policy, want := range map[string]Health{
		"": NotFound,
		"argocd.argoproj.io/hook-delete-policy: BeforeHookCreation":                 NotFound,
		"argocd.argoproj.io/hook-delete-policy: 'HookSucceeded,BeforeHookCreation'": Current,
		"helm.sh/hook-delete-policy: hook-succeeded":                                Current,
	} {
		job := parse(t, fmt.Sprintf(`{apiVersion: batch/v1, kind: Job, metadata: {name: job, namespace: shop, annotations: {%s}}}`, policy))
		now := map[object.Key]Status{object.KeyOf(job[0]): {Health: NotFound}}
		if FinishJobs(job, now); now[object.KeyOf(job[0])].Health != want {
			t.Errorf("%q: %v, want %s", policy, now, want)
		}
		now = map[object.Key]Status{object.KeyOf(job[0]): {Health: Failed}}
		if FinishJobs(job, now); now[object.KeyOf(job[0])].Health != Failed {
			t.Errorf("%q, failed: %v", policy, now)
		}
	}
}

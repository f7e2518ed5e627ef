package standin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/fluxcd/pkg/ssa"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The phases of an operation and of a hook.
const (
	running   = "Running"
	succeeded = "Succeeded"
	failed    = "Failed"
)

// The phases of a sync, in their order.
var syncPhases = []string{"PreSync", "Sync", "PostSync"}

// task is one object of a sync, and what the Application's status says of it.
type task struct {
	object *unstructured.Unstructured
	phase  string // one of syncPhases; all but Sync are hooks
	wave   int
	result map[string]any // nil before it is applied
}

func (t *task) hook() bool { return t.phase != "Sync" }

// operate carries an operation on by one step, as Argo CD does: where it stands is in the status, the phases and their waves come one after
// the other, a hook is waited for, and the sync ends with one that failed. Waves of what is no hook are not told apart.
func (a *Argo) operate(ctx context.Context, u *unstructured.Unstructured, operation map[string]any, sources []source, now map[string]any) error {
	before := u.DeepCopy()
	state, _, _ := unstructured.NestedMap(u.Object, "status", "operationState")
	if state["phase"] != running {
		state = map[string]any{"operation": operation, "phase": running, "startedAt": stamp()}
		if err := unstructured.SetNestedMap(u.Object, state, "status", "operationState"); err != nil {
			return err
		}
		if err := a.patch(ctx, u, before); err != nil { // which revision it is of comes with what was applied
			return err
		}
		before = u.DeepCopy()
	}
	objects, err := a.render(ctx, u, sources)
	if err != nil {
		return err
	}
	old, _, _ := unstructured.NestedSlice(state, "syncResult", "resources")
	tasks, err := tasksOf(objects, old)
	if err != nil {
		return err
	}
	phase, message, err := a.proceed(ctx, u, tasks, sources)
	if err != nil {
		return err
	}
	result := map[string]any{"resources": results(tasks)}
	maps.Copy(result, now)
	state["phase"], state["message"], state["syncResult"] = phase, message, result
	status, _, _ := unstructured.NestedMap(u.Object, "status")
	status["operationState"] = state
	if phase != running {
		delete(u.Object, "operation")
		state["finishedAt"] = stamp()
	}
	if phase == succeeded {
		synced := map[string]any{"status": "Synced"}
		maps.Copy(synced, now)
		status["sync"], status["health"] = synced, map[string]any{"status": "Healthy"}
		status["history"] = remember(status, state, u)
	}
	u.Object["status"] = status
	return a.patch(ctx, u, before)
}

// proceed looks at the hooks that run, and applies what comes next if none does.
func (a *Argo) proceed(ctx context.Context, u *unstructured.Unstructured, tasks []*task, sources []source) (phase, message string, err error) {
	for _, t := range tasks {
		if t.hook() && t.result != nil && t.result["hookPhase"] == running {
			if t.result["hookPhase"], t.result["message"], err = a.hookPhase(ctx, t.object); err != nil {
				return "", "", err
			}
		}
	}
	is := func(phase string) func(*task) bool {
		return func(t *task) bool { return t.result != nil && t.result["hookPhase"] == phase }
	}
	switch next := slices.IndexFunc(tasks, func(t *task) bool { return t.result == nil }); {
	case slices.ContainsFunc(tasks, is(running)):
		return running, "waiting for completion of hooks", nil
	case slices.ContainsFunc(tasks, is(failed)):
		return failed, "one or more synchronization tasks completed unsuccessfully", nil
	case next < 0:
		return succeeded, "successfully synced (no more tasks)", nil
	default:
		group := slices.DeleteFunc(slices.Clone(tasks), func(t *task) bool { return t.phase != tasks[next].phase || t.wave != tasks[next].wave })
		if err := a.applyGroup(ctx, u, group, sources); err != nil {
			return "", "", err
		}
		if !slices.ContainsFunc(tasks, func(t *task) bool { return t.hook() || t.result == nil }) {
			return succeeded, "successfully synced (all tasks run)", nil
		}
		return running, "one or more tasks are running", nil
	}
}

// applyGroup applies objects of one phase and wave. What is left of hooks from another sync goes first.
func (a *Argo) applyGroup(ctx context.Context, u *unstructured.Unstructured, group []*task, sources []source) error {
	var objects []*unstructured.Unstructured
	left := false
	for _, t := range group {
		objects = append(objects, t.object)
		if !t.hook() {
			continue
		}
		err := a.Client.Delete(ctx, t.object.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		left = left || err == nil
	}
	if left {
		return nil // the next step finds whether it is gone
	}
	if a.Applied != nil && !group[0].hook() {
		for _, s := range slices.DeleteFunc(slices.Clone(sources), func(s source) bool { return s.path == "" }) {
			a.Applied(ctx, u.GetNamespace()+"/"+u.GetName(), s.commit)
		}
	}
	if err := applyAll(ctx, a.Client, ssa.Owner{Field: "argocd-controller", Group: "argoproj.io"}, objects); err != nil {
		return err
	}
	for _, t := range group {
		gvk := t.object.GroupVersionKind()
		t.result = map[string]any{
			"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind, "namespace": t.object.GetNamespace(), "name": t.object.GetName(),
			"syncPhase": t.phase, "status": "Synced", "hookPhase": running,
		}
		if t.hook() {
			t.result["hookType"] = t.phase
		} else {
			t.result["hookPhase"] = succeeded // health is not waited for
		}
	}
	return nil
}

// hookPhase is how a hook fares: a Job takes its time, anything else is done as soon as it is there.
func (a *Argo) hookPhase(ctx context.Context, o *unstructured.Unstructured) (phase, message string, err error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	err = a.Client.Get(ctx, client.ObjectKeyFromObject(o), live)
	switch {
	case apierrors.IsNotFound(err):
		return failed, "it might have been deleted", nil
	case err != nil:
		return "", "", err
	case o.GetKind() != "Job":
		return succeeded, o.GetName() + " created", nil
	}
	job := &batchv1.Job{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(live.Object, job); err != nil {
		return "", "", err
	}
	for _, c := range job.Status.Conditions {
		switch {
		case c.Status != corev1.ConditionTrue:
		case c.Type == batchv1.JobFailed:
			return failed, c.Message, nil
		case c.Type == batchv1.JobComplete:
			return succeeded, c.Message, nil
		}
	}
	return running, "", nil
}

// tasksOf sorts objects by phase and wave, with what the status has of each.
func tasksOf(objects []*unstructured.Unstructured, old []any) ([]*task, error) {
	var tasks []*task
	for _, o := range objects {
		t := &task{object: o, phase: "Sync"}
		annotations := o.GetAnnotations()
		if hook := annotations["argocd.argoproj.io/hook"]; hook != "" {
			t.phase = hook
		}
		if !slices.Contains(syncPhases, t.phase) {
			return nil, fmt.Errorf("%s %s: a hook %s is not stood in for", o.GetKind(), o.GetName(), t.phase)
		}
		if t.hook() {
			t.wave, _ = strconv.Atoi(annotations["argocd.argoproj.io/sync-wave"]) // none is 0
		}
		for _, item := range old {
			r, _ := item.(map[string]any)
			if r["kind"] == o.GetKind() && r["group"] == o.GroupVersionKind().Group && r["namespace"] == o.GetNamespace() && r["name"] == o.GetName() {
				t.result = r
			}
		}
		tasks = append(tasks, t)
	}
	slices.SortStableFunc(tasks, func(x, y *task) int {
		if d := slices.Index(syncPhases, x.phase) - slices.Index(syncPhases, y.phase); d != 0 {
			return d
		}
		return x.wave - y.wave
	})
	return tasks, nil
}

func results(tasks []*task) []any {
	var out []any
	for _, t := range tasks {
		if t.result != nil {
			out = append(out, t.result)
		}
	}
	return out
}

// remember is the history with a sync that has succeeded.
func remember(status, state map[string]any, u *unstructured.Unstructured) []any {
	history, _, _ := unstructured.NestedSlice(status, "history")
	id := int64(0)
	if len(history) > 0 {
		last, _ := history[len(history)-1].(map[string]any)
		id, _ = last["id"].(int64)
		id++
	}
	entry := map[string]any{"id": id, "deployedAt": stamp(), "deployStartedAt": state["startedAt"]}
	result, _ := state["syncResult"].(map[string]any)
	for _, field := range []string{"revision", "revisions"} {
		if value, found := result[field]; found {
			entry[field] = value
		}
	}
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	for _, field := range []string{"source", "sources"} {
		if value, found := spec[field]; found {
			entry[field] = value
		}
	}
	return append(history, entry)
}

func stamp() string { return metav1.Now().UTC().Format(time.RFC3339) }

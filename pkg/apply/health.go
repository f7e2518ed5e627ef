package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Health is how an object fares.
type Health string

// Healths.
const (
	// Current: the object is what its manifest asks for; a Job is complete.
	Current Health = "Current"
	// InProgress: it is not yet, or it is being deleted.
	InProgress Health = "InProgress"
	// Failed: it says that it will not become so by itself. A Deployment says this also when its pods have waited long for a
	// volume, and takes it back when they start.
	Failed Health = "Failed"
	// NotFound: it does not exist, or its kind does not.
	NotFound Health = "NotFound"
)

// Status is the Health of one object and why.
type Status struct {
	Health  Health
	Message string
}

// UnhealthyError says that not all objects became Current.
type UnhealthyError struct {
	// Timeout is over, or is zero when an object has Failed before.
	Timeout time.Duration
	// Objects are those that are not Current.
	Objects map[object.Key]Status
	// Err is why the health is not known, if the last read failed.
	Err error
}

// Error names every object that is not Current, and why.
func (e *UnhealthyError) Error() string {
	s := "not healthy"
	if e.Timeout > 0 {
		s += fmt.Sprintf(" after %s", e.Timeout)
	}
	if e.Err != nil {
		s += fmt.Sprintf(": health is not known: %v", e.Err)
	}
	for i, key := range slices.SortedFunc(maps.Keys(e.Objects), object.Key.Compare) {
		separator := "; "
		if i == 0 {
			separator = ": "
		}
		st := e.Objects[key]
		s += fmt.Sprintf("%s%s is %s", separator, key, st.Health)
		if st.Message != "" {
			s += " (" + st.Message + ")"
		}
	}
	return s
}

// Unwrap returns why the health is not known.
func (e *UnhealthyError) Unwrap() error { return e.Err }

// Health reads the objects once and says how each fares; the keys are those of the objects given. Lockstep's own kinds are
// Current as soon as they exist: their conditions are about the data, not about what was deployed. An error means that
// the health is not known.
func (a *Applier) Health(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]Status, error) {
	listed, err := a.listed(ctx, objects)
	if err != nil {
		return nil, err
	}
	all := make([]Status, len(objects))
	err = each(ctx, objects, func(i int, o *unstructured.Unstructured) (err error) {
		if live := listed[object.KeyOf(o)]; live != nil {
			all[i], err = a.judge(ctx, live)
		} else {
			all[i], err = a.health(ctx, o)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	found := make(map[object.Key]Status, len(objects))
	for i, o := range objects {
		found[object.KeyOf(o)] = all[i]
	}
	return found, nil
}

func (a *Applier) health(ctx context.Context, o *unstructured.Unstructured) (Status, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	live.SetNamespace(o.GetNamespace())
	err := a.place(live)
	if err == nil {
		err = a.client.Get(ctx, types.NamespacedName{Namespace: live.GetNamespace(), Name: o.GetName()}, live)
	}
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return Status{Health: NotFound}, nil
	case err != nil:
		return Status{}, err
	}
	return a.judge(ctx, live)
}

func (a *Applier) judge(ctx context.Context, live *unstructured.Unstructured) (Status, error) {
	if live.GroupVersionKind().Group == v1alpha1.GroupVersion.Group {
		return Status{Health: Current}, nil
	}
	switch live.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		return jobHealth(live)
	case object.Claim:
		return a.claimHealth(ctx, live)
	}
	return compute(live)
}

func compute(live *unstructured.Unstructured) (Status, error) {
	result, err := status.Compute(live)
	if err != nil {
		return Status{}, fmt.Errorf("reading its status: %w", err)
	}
	switch result.Status {
	case status.CurrentStatus:
		return Status{Current, result.Message}, nil
	case status.FailedStatus:
		return Status{Failed, result.Message}, nil
	}
	return Status{InProgress, result.Message}, nil
}

// jobHealth wants a Job to have completed; for kstatus it is enough that it runs.
func jobHealth(live *unstructured.Unstructured) (Status, error) {
	st, err := compute(live)
	if err != nil || st.Health != Current {
		return st, err
	}
	conditions, _, err := unstructured.NestedSlice(live.Object, "status", "conditions")
	if err != nil {
		return Status{}, err
	}
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Complete" && c["status"] == "True" {
			return st, nil
		}
	}
	return Status{InProgress, st.Message}, nil
}

// claimHealth takes a claim for Current that nobody uses yet and whose class waits for that.
func (a *Applier) claimHealth(ctx context.Context, live *unstructured.Unstructured) (Status, error) {
	st, err := compute(live)
	class, _, _ := unstructured.NestedString(live.Object, "spec", "storageClassName")
	_, selected := live.GetAnnotations()["volume.kubernetes.io/selected-node"]
	volume, _, _ := unstructured.NestedString(live.Object, "spec", "volumeName")
	if err != nil || st.Health != InProgress || live.GetDeletionTimestamp() != nil || class == "" || selected || volume != "" {
		return st, err
	}
	sc := &unstructured.Unstructured{}
	sc.SetGroupVersionKind(schema.GroupVersionKind{Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass"})
	if err := a.client.Get(ctx, client.ObjectKey{Name: class}, sc); err != nil {
		return st, client.IgnoreNotFound(err)
	}
	if mode, _, _ := unstructured.NestedString(sc.Object, "volumeBindingMode"); mode == "WaitForFirstConsumer" {
		return Status{Current, "waits for its first consumer"}, nil
	}
	return st, nil
}

// Wait reads the health of the objects until all are Current, one has Failed, or the timeout is over; progress, if not
// nil, is called after each read with the statuses that changed. It is for objects that have been applied: a Job that
// removes itself when it has finished counts as Current when it is gone. The error is an UnhealthyError, or that of a
// context which is over.
func (a *Applier) Wait(ctx context.Context, objects []*unstructured.Unstructured, timeout time.Duration, progress func(map[object.Key]Status)) error {
	over := time.NewTimer(timeout)
	defer over.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	seen := map[object.Key]Status{}
	for {
		now, err := a.Health(ctx, objects)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			FinishJobs(objects, now)
			report(seen, now, progress)
			seen = now
			if left := unhealthy(now); len(left) == 0 {
				return nil
			} else if failed(left) {
				return &UnhealthyError{Objects: left}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over.C:
			return &UnhealthyError{Timeout: timeout, Objects: unhealthy(seen), Err: err}
		case <-tick.C:
		}
	}
}

// FinishJobs takes Jobs that remove themselves, or are removed as hooks that have succeeded, for finished when they are gone. The objects
// must have been applied before their health was read: then a Job that is absent was there.
func FinishJobs(objects []*unstructured.Unstructured, now map[object.Key]Status) {
	for _, o := range objects {
		if key := object.KeyOf(o); o.GetKind() == "Job" && now[key].Health == NotFound && goes(o) {
			now[key] = Status{Current, "has finished and was removed"}
		}
	}
}

// goes says that a Job is to be removed when it has finished.
func goes(job *unstructured.Unstructured) bool {
	_, ttl, _ := unstructured.NestedFieldNoCopy(job.Object, "spec", "ttlSecondsAfterFinished")
	annotations := job.GetAnnotations()
	return ttl || strings.Contains(annotations["argocd.argoproj.io/hook-delete-policy"], "HookSucceeded") ||
		strings.Contains(annotations["helm.sh/hook-delete-policy"], "hook-succeeded")
}

func report(before, now map[object.Key]Status, progress func(map[object.Key]Status)) {
	if progress == nil {
		return
	}
	changed := map[object.Key]Status{}
	for key, st := range now {
		if st != before[key] {
			changed[key] = st
		}
	}
	if len(changed) > 0 {
		progress(changed)
	}
}

func unhealthy(all map[object.Key]Status) map[object.Key]Status {
	left := maps.Clone(all)
	maps.DeleteFunc(left, func(_ object.Key, st Status) bool { return st.Health == Current })
	return left
}

func failed(all map[object.Key]Status) bool {
	for _, st := range all {
		if st.Health == Failed {
			return true
		}
	}
	return false
}

package residual

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Target is what Plan is told of the cluster that objects come back to.
type Target struct {
	Present    map[object.Key]bool
	Served     map[schema.GroupVersionKind]bool
	Namespaces map[string]bool
	// Going are the objects that are there and will not be, since they or their namespaces are being deleted.
	Going map[object.Key]bool
}

// Action is what a replay does with an object.
type Action string

// Actions.
const (
	Create Action = "create" // it is absent
	Leave  Action = "leave"  // it is there, and never replaced
	Hold   Action = "hold"   // it cannot be created yet
)

// Step is one object of a replay.
type Step struct {
	Key    object.Key `json:"object"`
	Action Action     `json:"action"`
	Reason string     `json:"reason,omitempty"`
}

// Plan says what a replay of the set does, in order: what the engines need first, then ServiceAccounts, Secrets and ConfigMaps before
// what refers to them.
func Plan(s Set, t Target) []Step {
	steps := make([]Step, 0, len(s.Secrets)+len(s.Objects))
	bootstrap := map[object.Key]bool{}
	for key, o := range s.all() {
		_, bootstrap[key] = o.GetAnnotations()[v1alpha1.AnnotationBootstrap]
		gvk := o.GetObjectKind().GroupVersionKind()
		step := Step{Key: key, Action: Create}
		switch {
		case t.Going[key]:
			step.Action, step.Reason = Hold, "what has its name, or its namespace, is still being deleted"
		case t.Present[key]:
			step.Action, step.Reason = Leave, "it is there"
		case !t.Served[gvk]:
			step.Action, step.Reason = Hold, fmt.Sprintf("the cluster does not serve %s of %s", gvk.Kind, gvk.GroupVersion())
		case !t.Namespaces[key.Namespace] && bootstrap[key]:
			step.Action, step.Reason = Leave, fmt.Sprintf("there is no namespace %q whose engine needs it", key.Namespace)
		case !t.Namespaces[key.Namespace]:
			step.Action, step.Reason = Hold, fmt.Sprintf("there is no namespace %q", key.Namespace)
		}
		steps = append(steps, step)
	}
	slices.SortStableFunc(steps, func(a, b Step) int {
		stageA, rankA := order(a.Key.GroupKind())
		stageB, rankB := order(b.Key.GroupKind())
		if bootstrap[a.Key] != bootstrap[b.Key] {
			if bootstrap[a.Key] {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(stageA, stageB), cmp.Compare(rankA, rankB), a.Key.Compare(b.Key))
	})
	return steps
}

// HeldError says what the objects wait for that could not be created yet. All others are there. Its text names none of the
// objects: who may read why a restore waits may have nothing to do with them.
type HeldError struct {
	Steps []Step
}

func (e *HeldError) Error() string {
	var reasons []string
	for _, step := range e.Steps {
		if !slices.Contains(reasons, step.Reason) {
			reasons = append(reasons, step.Reason)
		}
	}
	slices.Sort(reasons)
	what := "1 object that Git does not hold waits"
	if n := len(e.Steps); n > 1 {
		what = fmt.Sprintf("%d objects that Git does not hold wait", n)
	}
	return what + ": " + strings.Join(reasons, "; ")
}

// Replay creates the objects of the set that are absent and of which no pod follows, marked with the restore point they come
// from. What exists is left as it is. A *HeldError names what must be tried again when its kind or namespace is there. The
// reader must not be a cache.
func Replay(ctx context.Context, live client.Reader, c client.Client, s Set, point string) ([]Step, error) {
	return replay(ctx, live, c, s.of(before), point)
}

// ReplayWorkloads does the same with workloads and custom resources. It must not run before every claim names its volume.
func ReplayWorkloads(ctx context.Context, live client.Reader, c client.Client, s Set, point string) ([]Step, error) {
	return replay(ctx, live, c, s.of(after), point)
}

func replay(ctx context.Context, live client.Reader, c client.Client, s Set, point string) ([]Step, error) {
	target, err := look(ctx, live, c.RESTMapper(), s)
	if err != nil {
		return nil, err
	}
	steps := Plan(s, target)
	objects := map[object.Key]client.Object{}
	for key, o := range s.all() {
		objects[key] = o
	}
	var held []Step
	for i := range steps {
		step := &steps[i]
		switch step.Action {
		case Hold:
			held = append(held, *step)
		case Create:
			err := create(ctx, c, objects[step.Key], point)
			if apierrors.IsAlreadyExists(err) {
				step.Action, step.Reason = Leave, "it appeared meanwhile"
			} else if err != nil {
				return steps, fmt.Errorf("creating %s: %w", step.Key, conceal(err))
			}
		}
	}
	if len(held) > 0 {
		return steps, &HeldError{held}
	}
	return steps, nil
}

func create(ctx context.Context, c client.Client, o client.Object, point string) error {
	fresh := o.DeepCopyObject().(client.Object)
	annotations := fresh.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[v1alpha1.AnnotationRestoredFrom] = point
	fresh.SetAnnotations(annotations)
	return c.Create(ctx, fresh, client.FieldOwner(v1alpha1.FieldManager))
}

// conceal keeps why an object was refused and which of its fields are wrong, and drops what is said about them: that may
// repeat a value.
func conceal(err error) error {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) || !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		return err
	}
	status := answer.Status()
	message := "the cluster refuses it: " + string(status.Reason)
	if status.Details != nil {
		for _, cause := range status.Details.Causes {
			message += fmt.Sprintf("; %s %s", cause.Field, cause.Type)
		}
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: status.Code, Reason: status.Reason, Message: message,
	}}
}

// look asks the cluster what Plan must know.
func look(ctx context.Context, c client.Reader, mapper meta.RESTMapper, s Set) (Target, error) {
	t := Target{map[object.Key]bool{}, map[schema.GroupVersionKind]bool{}, map[string]bool{}, map[object.Key]bool{}}
	goes := map[string]bool{}
	for _, key := range s.Keys() {
		if _, asked := t.Namespaces[key.Namespace]; asked {
			continue
		}
		live := &corev1.Namespace{}
		err := c.Get(ctx, client.ObjectKey{Name: key.Namespace}, live)
		if client.IgnoreNotFound(err) != nil {
			return t, fmt.Errorf("reading namespace %q: %w", key.Namespace, err)
		}
		t.Namespaces[key.Namespace], goes[key.Namespace] = err == nil, err == nil && live.DeletionTimestamp != nil
	}
	for key, o := range s.all() {
		gvk := o.GetObjectKind().GroupVersionKind()
		if _, asked := t.Served[gvk]; !asked {
			_, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if err != nil && !meta.IsNoMatchError(err) {
				return t, fmt.Errorf("asking whether the cluster serves %s: %w", gvk, err)
			}
			t.Served[gvk] = err == nil
		}
		if !t.Served[gvk] {
			continue
		}
		live := &metav1.PartialObjectMetadata{}
		live.SetGroupVersionKind(gvk)
		err := c.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name}, live)
		if client.IgnoreNotFound(err) != nil {
			return t, fmt.Errorf("looking for %s: %w", key, err)
		}
		t.Present[key] = err == nil
		t.Going[key] = goes[key.Namespace] || err == nil && live.DeletionTimestamp != nil
	}
	return t, nil
}

// of is the part of the set that belongs to a stage.
func (s Set) of(at stage) Set {
	return s.Without(func(key object.Key) bool {
		when, _ := order(key.GroupKind())
		return when != at
	})
}

// all goes through the objects of the set.
func (s Set) all() iter.Seq2[object.Key, client.Object] {
	return func(yield func(object.Key, client.Object) bool) {
		for i := range s.Secrets {
			secret := s.Secrets[i].DeepCopy()
			secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(object.Secret.Kind))
			if !yield(secretKey(secret), secret) {
				return
			}
		}
		for i := range s.Objects {
			if u := &s.Objects[i]; !yield(object.KeyOf(u), u) {
				return
			}
		}
	}
}

// Package gitops holds what the adapters of the GitOps engines share: the values that they give, and the mark by which a
// restore owns what it holds of an engine. The mark is on the held object itself, with what was there before, so that it can
// be given back by whoever finds it, also when the Restore is gone.
package gitops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// ErrLost is wrapped when an object that a restore counts on is gone, or held by another restore. A person must look.
var ErrLost = errors.New("the restore cannot go on without it")

// Target is what is to be deployed, and for whom.
type Target struct {
	// Repository is its URL, Path the directory in it.
	Repository, Path string
	// Part says that only a part of what is there is to be deployed, which no engine of GitOps can.
	Part bool
	// Apart says that it is to be deployed into other namespaces, where no engine of GitOps rules.
	Apart bool
	// UID is that of the Restore which asks; empty for a dry run.
	UID string
}

// Ruling says that an engine deploys a target.
type Ruling struct {
	Engine v1alpha1.Engine
	// Message says in words why.
	Message string
	Objects []v1alpha1.EngineObject
	// Active says that the engine deploys the target by itself now.
	Active bool
	// Refusals say why the engine cannot be used for a restore as it stands.
	Refusals []string
}

// Owner is the Restore that holds something.
type Owner struct {
	Name object.Name
	UID  string
}

// Task is what a restore has an engine do.
type Task struct {
	Owner    Owner
	Objects  []v1alpha1.EngineObject
	Revision v1alpha1.Revision
	Now      time.Time
}

// Build says how an engine builds a directory of the commit, in the words of Flux's Kustomization, into which those of other engines
// are put.
type Build struct {
	// By says in words whose build it is: "Kustomization flux-system/shop".
	By string
	// Kustomization has the directory in spec.path, and what is made of it in the fields beside.
	Kustomization *unstructured.Unstructured
	// Namespace is where objects go that name none; empty where that is Kubernetes' own default.
	Namespace string
	// Flat says that of a directory without a kustomization the manifests below it do not count.
	Flat bool
	// Ignore are the patterns of files that Flux's source leaves out beside those that .sourceignore files name; nil where another engine builds.
	Ignore *string
	// Refusals say what the engine does there that cannot be foreseen.
	Refusals []string
}

// Driver is a GitOps engine. Every call may be repeated, and may die half way, without harm.
type Driver interface {
	// Find looks for what deploys the target to this cluster; nil if the engine does not.
	Find(ctx context.Context, target Target) (*Ruling, error)
	// Builds say how the engine builds what it deploys before the path, and last the path. An object that is gone is an ErrLost.
	Builds(ctx context.Context, objects []v1alpha1.EngineObject, target Target) ([]Build, error)
	// Key is the identity of one of the engine's objects.
	Key(o v1alpha1.EngineObject) object.Key
	// Hold keeps the objects from deploying anything.
	Hold(ctx context.Context, t Task) error
	// Pin makes them deploy the commit and nothing else, once they are released.
	Pin(ctx context.Context, t Task) error
	// Observe says where they stand.
	Observe(ctx context.Context, t Task) (State, error)
	// Release lets a unit deploy.
	Release(ctx context.Context, t Task, unit v1alpha1.EngineObject) error
	// Undo gives back what the Restore with the UID holds, and says in words what is still waited for; it is to be called again
	// until that is empty. A unit that was released stays so.
	Undo(ctx context.Context, uid string, now time.Time) (waits string, err error)
}

// State is where an engine stands on the way of a restore.
type State struct {
	// HoldDue says that something is to be held yet, PinDue that something is to be pinned.
	HoldDue, PinDue bool
	// Unquiet says in words what is under way that began before the hold, or is missing; Unfetched what keeps the engine from
	// having the commit. Both are empty when nothing does.
	Unquiet, Unfetched string
	// Units are the objects that deploy the commit.
	Units map[object.Key]Unit
}

// Held says that nobody but the restore acts on what it restores.
func (s State) Held() bool { return !s.HoldDue && s.Unquiet == "" }

// Pinned says that what is released now deploys the commit.
func (s State) Pinned() bool { return s.Held() && !s.PinDue && s.Unfetched == "" }

// Waits says in words what is waited for.
func (s State) Waits() string {
	if s.Unquiet == "" && !s.PinDue {
		return s.Unfetched
	}
	return s.Unquiet
}

// Unit is how an object fares that deploys the commit.
type Unit struct {
	// Released says that it may deploy, Ready that it has deployed the commit and is well.
	Released, Ready bool
	// Message says in words why it is not ready.
	Message string
}

// Held is the mark on an object that is held or pinned.
type Held struct {
	At time.Time `json:"at"`
	// Released says that the restore let the object go on: what held it is given back already.
	Released bool `json:"released,omitempty"`
	// Was is what was there before, in the engine's own words.
	Was json.RawMessage `json:"was"`
}

// Before reads what was there before into a value of the engine's own type.
func (h *Held) Before(was any) error {
	if err := json.Unmarshal(h.Was, was); err != nil {
		return fmt.Errorf("reading what was there before: %w", err)
	}
	return nil
}

// MarkReleased notes in the mark that the object may go on.
func MarkReleased(u *unstructured.Unstructured, owner Owner, h Held) error {
	h.Released = true
	return Mark(u, owner, h)
}

// MarkWith puts the owner's mark on an object, with what was there before.
func MarkWith(u *unstructured.Unstructured, owner Owner, h Held, was any) error {
	data, err := json.Marshal(was)
	if err != nil {
		return fmt.Errorf("marking %s: %w", object.KeyOf(u), err)
	}
	h.Was = data
	return Mark(u, owner, h)
}

// NameOf is the name of an engine's object.
func NameOf(u *unstructured.Unstructured) object.Name { return object.KeyOf(u).NamespacedName() }

// Mark puts the owner's mark on an object.
func Mark(u *unstructured.Unstructured, owner Owner, h Held) error {
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("marking %s: %w", object.KeyOf(u), err)
	}
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels[v1alpha1.LabelRestore] = owner.UID
	annotations[v1alpha1.AnnotationHeldBy], annotations[v1alpha1.AnnotationHeld] = owner.Name.String(), string(data)
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
	return nil
}

// MarkOf reads the mark of the Restore with the UID; nil if the object has none of it.
func MarkOf(u *unstructured.Unstructured, uid string) (*Held, error) {
	if uid == "" || u.GetLabels()[v1alpha1.LabelRestore] != uid {
		return nil, nil
	}
	h := &Held{}
	if err := json.Unmarshal([]byte(u.GetAnnotations()[v1alpha1.AnnotationHeld]), h); err != nil {
		return nil, fmt.Errorf("reading annotation %s of %s: %w", v1alpha1.AnnotationHeld, object.KeyOf(u), err)
	}
	return h, nil
}

// Unmark takes the mark off.
func Unmark(u *unstructured.Unstructured) {
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	delete(labels, v1alpha1.LabelRestore)
	delete(annotations, v1alpha1.AnnotationHeldBy)
	delete(annotations, v1alpha1.AnnotationHeld)
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
}

// Taken says in words that another restore holds an object; empty if none does.
func Taken(u *unstructured.Unstructured, uid string) string {
	by := u.GetLabels()[v1alpha1.LabelRestore]
	if by == "" || by == uid {
		return ""
	}
	name := u.GetAnnotations()[v1alpha1.AnnotationHeldBy]
	namespace, restore, _ := strings.Cut(name, "/")
	return fmt.Sprintf("%s is held by restore %s: run lockstep restore release %s -n %s first", object.KeyOf(u), name, restore, namespace)
}

// Cluster is how the adapters reach an engine's objects.
type Cluster struct {
	// Client writes, and knows which kinds are served.
	Client client.Client
	// Reader reads from the API server itself.
	Reader client.Reader
}

// Own reads one of the task's objects and the owner's mark on it. One that is gone, or that another restore holds, is an error.
func (c Cluster) Own(ctx context.Context, t Task, kind schema.GroupKind, o v1alpha1.EngineObject) (*unstructured.Unstructured, *Held, error) {
	u, err := c.Get(ctx, kind, Name(o))
	switch {
	case err != nil:
		return nil, nil, err
	case u == nil:
		return nil, nil, fmt.Errorf("%s %s is gone: %w", o.Kind, Name(o), ErrLost)
	}
	if taken := Taken(u, t.Owner.UID); taken != "" {
		return nil, nil, fmt.Errorf("%s: %w", taken, ErrLost)
	}
	held, err := MarkOf(u, t.Owner.UID)
	return u, held, err
}

// Edit changes one of a task's objects; held is the owner's mark on it, nil where there is none. What it leaves as it is is not written.
type Edit func(t Task, u *unstructured.Unstructured, held *Held) error

// EditEach edits those of a task's objects that are meant.
func (c Cluster) EditEach(ctx context.Context, t Task, kind schema.GroupKind, meant func(v1alpha1.EngineObject) bool, edit Edit) error {
	for _, o := range t.Objects {
		if !meant(o) {
			continue
		}
		if err := c.EditOne(ctx, t, kind, o, edit); err != nil {
			return err
		}
	}
	return nil
}

// EditOne edits one of a task's objects.
func (c Cluster) EditOne(ctx context.Context, t Task, kind schema.GroupKind, o v1alpha1.EngineObject, edit Edit) error {
	u, held, err := c.Own(ctx, t, kind, o)
	if err != nil {
		return err
	}
	after := u.DeepCopy()
	if err := edit(t, after, held); err != nil {
		return fmt.Errorf("changing %s: %w", object.KeyOf(u), err)
	}
	if equality.Semantic.DeepEqual(u, after) {
		return nil
	}
	return c.Change(ctx, u, after)
}

// GiveBack lets an object go that the Restore with the UID has marked, as edit leaves it.
func (c Cluster) GiveBack(ctx context.Context, u *unstructured.Unstructured, uid string, edit func(u *unstructured.Unstructured, held *Held) error) error {
	held, err := MarkOf(u, uid)
	if err != nil || held == nil {
		return err
	}
	after := u.DeepCopy()
	if err := edit(after, held); err != nil {
		return fmt.Errorf("giving %s back: %w", object.KeyOf(u), err)
	}
	Unmark(after)
	return c.Change(ctx, u, after)
}

// List reads all objects of a kind; there are none where the kind is not served.
func (c Cluster) List(ctx context.Context, kind schema.GroupKind, o ...client.ListOption) ([]unstructured.Unstructured, error) {
	mapping, err := c.Client.RESTMapper().RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking whether the cluster serves %s: %w", kind, err)
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(mapping.GroupVersionKind.GroupVersion().WithKind(kind.Kind + "List"))
	err = c.Reader.List(ctx, list, o...)
	if apierrors.IsNotFound(err) {
		return nil, nil // the mapping is of a kind that has been removed since
	}
	if err != nil {
		return nil, fmt.Errorf("listing objects of kind %s: %w", kind, err)
	}
	return list.Items, nil
}

// Marked reads the objects of a kind that the Restore with the UID has marked.
func (c Cluster) Marked(ctx context.Context, kind schema.GroupKind, uid string) ([]unstructured.Unstructured, error) {
	return c.List(ctx, kind, client.MatchingLabels{v1alpha1.LabelRestore: uid})
}

// AllMarked reads the objects of a kind that any Restore has marked.
func (c Cluster) AllMarked(ctx context.Context, kind schema.GroupKind) ([]unstructured.Unstructured, error) {
	return c.List(ctx, kind, client.HasLabels{v1alpha1.LabelRestore})
}

// Get reads an object; nil if it does not exist.
func (c Cluster) Get(ctx context.Context, kind schema.GroupKind, name object.Name) (*unstructured.Unstructured, error) {
	mapping, err := c.Client.RESTMapper().RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking whether the cluster serves %s: %w", kind, err)
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(mapping.GroupVersionKind)
	err = c.Reader.Get(ctx, client.ObjectKey(name), u)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", kind.Kind, name, err)
	}
	return u, nil
}

// Change writes what is different in after, if nobody has changed the object since it was read.
func (c Cluster) Change(ctx context.Context, before, after *unstructured.Unstructured) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := c.Client.Patch(ctx, after.DeepCopy(), patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("changing %s: %w", object.KeyOf(before), err)
	}
	return nil
}

// Name is the name of an engine's object.
func Name(o v1alpha1.EngineObject) object.Name {
	return object.Name{Namespace: o.Namespace, Name: o.Name}
}

// Text reads a field of an object; empty if it is none or no text.
func Text(u *unstructured.Unstructured, fields ...string) string {
	s, _, _ := unstructured.NestedString(u.Object, fields...)
	return s
}

// Condition reads a condition's status, reason and message.
func Condition(u *unstructured.Unstructured, kind string) (status, reason, message string) {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, item := range list {
		c, _ := item.(map[string]any)
		if c["type"] == kind {
			status, _ = c["status"].(string)
			reason, _ = c["reason"].(string)
			message, _ = c["message"].(string)
		}
	}
	return status, reason, message
}

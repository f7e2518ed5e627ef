// Package flux drives Flux through a restore: it finds the Kustomization that deploys a path, holds it, pins its source to the
// commit, releases it, and gives everything back.
//
// The order makes it safe, because none of the steps does alone:
//
//  1. Hold. Each Kustomization that reads the source is suspended. This comes first: pinned before that, they would apply the
//     commit while no claim is reserved. To suspend one does not end what it is doing, so nothing goes on until what was under
//     way is over.
//  2. Pin. GitRepository.spec.ref.commit wins over branch and tag, and stays when a parent Kustomization declares only those.
//     While all are held, nobody follows it yet.
//  3. Release, once every claim is reserved: the Kustomizations that deploy the commit are resumed, those that others depend on
//     first. From the pinned source they cannot deploy anything else.
//  4. Give back, when told. The pin goes first. Kustomizations that were only held are resumed when the source has left the
//     commit: before that they would deploy it.
//
// Whoever undoes a hold in between, by hand or through a parent that declares suspend, is found out and the hold is put back;
// what was applied meanwhile meets the restore's own rule that a bound claim is never written to.
package flux

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

const (
	// annotationRequested asks a controller of Flux to reconcile now.
	annotationRequested = "reconcile.fluxcd.io/requestedAt"
	// lag is how long kustomize-controller may take to see that a Kustomization was suspended.
	lag = 2 * time.Second
	// defaultTimeout bounds one reconciliation where a Kustomization names neither a timeout nor an interval.
	defaultTimeout = 5 * time.Minute
)

// was is what is given back. Nil means that the field was not there.
type was struct {
	Suspend *bool   `json:"suspend,omitempty"`
	Commit  *string `json:"commit,omitempty"`
	// Unpinned says that the pin is given back already, and only waited for the source to follow.
	Unpinned bool `json:"unpinned,omitempty"`
}

func wasOf(h *gitops.Held) (was, error) {
	var w was
	err := h.Before(&w)
	return w, err
}

// Key is the identity of one of Flux's objects.
func (f Flux) Key(o v1alpha1.EngineObject) object.Key {
	kind := kindKustomization
	if o.Kind == kindRepository.Kind {
		kind = kindRepository
	}
	return object.Key{Group: kind.Group, Kind: kind.Kind, Namespace: o.Namespace, Name: o.Name}
}

// Hold suspends every Kustomization among the objects that has not been released.
func (f Flux) Hold(ctx context.Context, t gitops.Task) error {
	return f.EditEach(ctx, t, kindKustomization, func(o v1alpha1.EngineObject) bool { return o.Kind == kindKustomization.Kind }, suspend)
}

func suspend(t gitops.Task, u *unstructured.Unstructured, held *gitops.Held) error {
	if held != nil && held.Released {
		return nil
	}
	if held == nil {
		var w was
		if value, found, _ := unstructured.NestedBool(u.Object, "spec", "suspend"); found {
			w.Suspend = &value
		}
		if err := gitops.MarkWith(u, t.Owner, gitops.Held{At: t.Now}, w); err != nil {
			return err
		}
	}
	return unstructured.SetNestedField(u.Object, true, "spec", "suspend")
}

// Pin makes each source give the commit and nothing else.
func (f Flux) Pin(ctx context.Context, t gitops.Task) error {
	return f.EditEach(ctx, t, kindRepository, func(o v1alpha1.EngineObject) bool { return o.Role == v1alpha1.RoleSource }, pin)
}

func pin(t gitops.Task, u *unstructured.Unstructured, held *gitops.Held) error {
	if held != nil && pinnedTo(u) == t.Revision.Commit {
		return nil
	}
	if held == nil {
		var w was
		if value, found, _ := unstructured.NestedString(u.Object, "spec", "ref", "commit"); found {
			w.Commit = &value
		}
		if err := gitops.MarkWith(u, t.Owner, gitops.Held{At: t.Now}, w); err != nil {
			return err
		}
	}
	Request(u, t.Now)
	return unstructured.SetNestedField(u.Object, t.Revision.Commit, "spec", "ref", "commit")
}

// Release resumes a Kustomization.
func (f Flux) Release(ctx context.Context, t gitops.Task, o v1alpha1.EngineObject) error {
	return f.EditOne(ctx, t, kindKustomization, o, release)
}

func release(t gitops.Task, u *unstructured.Unstructured, held *gitops.Held) error {
	if held == nil || held.Released && !suspended(u) {
		return nil
	}
	unstructured.RemoveNestedField(u.Object, "spec", "suspend")
	Request(u, t.Now)
	return gitops.MarkReleased(u, t.Owner, *held)
}

// Observe says where the objects stand.
func (f Flux) Observe(ctx context.Context, t gitops.Task) (gitops.State, error) {
	s := gitops.State{Units: map[object.Key]gitops.Unit{}}
	var unquiet, unfetched []string
	for _, o := range t.Objects {
		u, held, err := f.read(ctx, t, o)
		if err != nil {
			return s, err
		}
		if o.Role == v1alpha1.RoleSource {
			s.PinDue = held == nil || pinnedTo(u) != t.Revision.Commit
			unfetched = append(unfetched, fetching(u, t.Revision.Commit)...)
			continue
		}
		if held == nil || !held.Released && !suspended(u) {
			s.HoldDue = true
		} else if !held.Released {
			why, err := underWay(u, held, t.Now)
			if err != nil {
				return s, err
			}
			unquiet = append(unquiet, why...)
		}
		if o.Role == v1alpha1.RoleUnit {
			s.Units[object.KeyOf(u)] = unit(u, held, t.Revision.Commit)
		}
	}
	s.Unquiet, s.Unfetched = strings.Join(unquiet, "; "), strings.Join(unfetched, "; ")
	return s, nil
}

// Undo gives back what the Restore with the UID holds, and says in words what is still waited for; it is to be called again
// until that is empty. A Kustomization that was released stays so.
func (f Flux) Undo(ctx context.Context, uid string, now time.Time) (waits string, err error) {
	sources, err := f.Marked(ctx, kindRepository, uid)
	if err != nil {
		return "", err
	}
	held, err := f.Marked(ctx, kindKustomization, uid)
	if err != nil {
		return "", err
	}
	for i := range sources {
		if err := f.unpin(ctx, &sources[i], uid, now); err != nil {
			return "", err
		}
	}
	for i := range held {
		waits, err := f.wouldFollow(ctx, &held[i], uid, sources)
		if err != nil {
			return "", err
		}
		if waits != "" {
			return waits, nil
		}
	}
	for i := range held {
		if err := f.resume(ctx, &held[i], uid, now); err != nil {
			return "", err
		}
	}
	for i := range sources {
		u, err := f.Get(ctx, kindRepository, gitops.NameOf(&sources[i]))
		if err != nil {
			return "", err
		}
		if u == nil {
			continue
		}
		after := u.DeepCopy()
		gitops.Unmark(after)
		if err := f.Change(ctx, u, after); err != nil {
			return "", err
		}
	}
	return "", nil
}

func (f Flux) unpin(ctx context.Context, u *unstructured.Unstructured, uid string, now time.Time) error {
	held, err := gitops.MarkOf(u, uid)
	if err != nil {
		return err
	}
	w, err := wasOf(held)
	if err != nil || w.Unpinned {
		return err
	}
	after := u.DeepCopy()
	if w.Commit != nil {
		err = unstructured.SetNestedField(after.Object, *w.Commit, "spec", "ref", "commit")
	} else {
		unstructured.RemoveNestedField(after.Object, "spec", "ref", "commit")
	}
	if err != nil {
		return fmt.Errorf("unpinning %s: %w", object.KeyOf(u), err)
	}
	w.Unpinned = true
	owner := gitops.Owner{UID: uid}
	if owner.Name, err = object.ParseName(u.GetAnnotations()[v1alpha1.AnnotationHeldBy]); err != nil {
		return fmt.Errorf("reading who holds %s: %w", object.KeyOf(u), err)
	}
	if err := gitops.MarkWith(after, owner, *held, w); err != nil {
		return err
	}
	Request(after, now)
	return f.Change(ctx, u, after)
}

// wouldFollow says in words that a held Kustomization, were it resumed now, could deploy the commit that its source was pinned to.
func (f Flux) wouldFollow(ctx context.Context, k *unstructured.Unstructured, uid string, sources []unstructured.Unstructured) (string, error) {
	held, err := gitops.MarkOf(k, uid)
	if err != nil || held.Released {
		return "", err
	}
	w, err := wasOf(held)
	if err != nil || w.Suspend != nil && *w.Suspend {
		return "", err
	}
	for i := range sources {
		if gitops.NameOf(&sources[i]) != sourceOf(k) {
			continue
		}
		u, err := f.Get(ctx, kindRepository, gitops.NameOf(&sources[i]))
		if err != nil || u == nil {
			return "", err
		}
		if status, _, message := gitops.Condition(u, "Ready"); !observed(u) || status != "True" {
			return fmt.Sprintf("Kustomization %s stays suspended until GitRepository %s has left the pinned commit: %s",
				gitops.NameOf(k), gitops.NameOf(u), orPending(message)), nil
		}
	}
	return "", nil
}

func (f Flux) resume(ctx context.Context, u *unstructured.Unstructured, uid string, now time.Time) error {
	return f.GiveBack(ctx, u, uid, func(u *unstructured.Unstructured, held *gitops.Held) error {
		w, err := wasOf(held)
		switch {
		case err != nil || held.Released:
			return err
		case w.Suspend == nil:
			unstructured.RemoveNestedField(u.Object, "spec", "suspend")
			Request(u, now)
			return nil
		}
		return unstructured.SetNestedField(u.Object, *w.Suspend, "spec", "suspend")
	})
}

func (f Flux) read(ctx context.Context, t gitops.Task, o v1alpha1.EngineObject) (*unstructured.Unstructured, *gitops.Held, error) {
	return f.Own(ctx, t, f.Key(o).GroupKind(), o)
}

// underWay says in words what a held Kustomization began before it was held. kustomize-controller says so in a condition before it
// applies anything. If it dies then, the condition stays; so no longer is waited than one reconciliation may take.
func underWay(u *unstructured.Unstructured, held *gitops.Held, now time.Time) ([]string, error) {
	w, err := wasOf(held)
	if err != nil || w.Suspend != nil && *w.Suspend {
		return nil, err
	}
	since := now.Sub(held.At)
	status, reason, _ := gitops.Condition(u, "Reconciling")
	if since < lag || status == "True" && reason == "Progressing" && since < timeout(u) {
		return []string{fmt.Sprintf("waiting for Kustomization %s to end what it is doing", gitops.NameOf(u))}, nil
	}
	return nil, nil
}

func timeout(u *unstructured.Unstructured) time.Duration {
	for _, field := range []string{"timeout", "interval"} {
		if d, err := time.ParseDuration(gitops.Text(u, "spec", field)); err == nil && d > 0 {
			return d
		}
	}
	return defaultTimeout
}

// fetching says in words that a source does not give the commit yet.
func fetching(u *unstructured.Unstructured, commit string) []string {
	if observed(u) && strings.HasSuffix(gitops.Text(u, "status", "artifact", "revision"), ":"+commit) {
		return nil
	}
	_, _, message := gitops.Condition(u, "Ready")
	if paused, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend"); paused {
		message = "it is suspended; resume it"
	}
	return []string{fmt.Sprintf("waiting for GitRepository %s to fetch the commit: %s", gitops.NameOf(u), orPending(message))}
}

func unit(u *unstructured.Unstructured, held *gitops.Held, commit string) gitops.Unit {
	if held == nil || !held.Released {
		return gitops.Unit{}
	}
	status, _, message := gitops.Condition(u, "Ready")
	switch {
	case suspended(u):
		return gitops.Unit{Released: true, Message: "it was suspended again, by hand or because Git declares it"}
	case !observed(u) || status != "True":
		return gitops.Unit{Released: true, Message: orPending(message)}
	case !strings.HasSuffix(gitops.Text(u, "status", "lastAppliedRevision"), ":"+commit):
		return gitops.Unit{Released: true, Message: "it has not applied the commit yet: " + orPending(message)}
	}
	return gitops.Unit{Released: true, Ready: true}
}

func suspended(u *unstructured.Unstructured) bool {
	value, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend")
	return value
}

func pinnedTo(u *unstructured.Unstructured) string { return gitops.Text(u, "spec", "ref", "commit") }

// observed says that the status is about the spec as it stands.
func observed(u *unstructured.Unstructured) bool {
	generation, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	return generation == u.GetGeneration()
}

// Request asks Flux to look at an object now.
func Request(u *unstructured.Unstructured, now time.Time) {
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationRequested] = now.UTC().Format(time.RFC3339Nano)
	u.SetAnnotations(annotations)
}

func orPending(message string) string {
	if message == "" {
		return "it has said nothing yet"
	}
	return message
}

// Package argocd drives Argo CD through a restore: it finds the Application that deploys a path, turns its auto-sync off, pins it to
// the commit, syncs it, and gives everything back.
//
//  1. Hold. spec.syncPolicy.automated is taken away from the Application and from those above it, which would put it back. A sync
//     that runs already is waited for. The annotation skip-reconcile would do less: with it Argo CD does not sync at all, not even
//     when asked, and it is an alpha feature.
//  2. Pin. targetRevision of the source that deploys the path becomes the commit, and that of those beside it which follow the same
//     branch of the same repository, as files of values do. Other sources stay at what they name. Without auto-sync that deploys
//     nothing.
//  3. Release, once every claim is reserved: one patch asks for a sync of the commit and gives auto-sync back. Whatever Argo CD does
//     by itself from then on, it does with that commit.
//  4. Give back, when told: targetRevision as it was.
package argocd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// lag is how long Argo CD may take to see that auto-sync was turned off.
const lag = 2 * time.Second

// was is what is given back. Nil means that the field was not there.
type was struct {
	Automated map[string]any `json:"automated"`
	// Pinned are the sources that were pinned; there is none before the pin.
	Pinned []pin `json:"pinned,omitempty"`
}

// pin is the targetRevision that a source had, by what tells it from the others of its Application.
type pin struct {
	Repository string  `json:"repository"`
	Path       string  `json:"path,omitempty"`
	Ref        string  `json:"ref,omitempty"`
	Revision   *string `json:"revision,omitempty"`
}

func pinOf(source map[string]any) pin {
	p := pin{Repository: field(source, "repoURL"), Path: field(source, "path"), Ref: field(source, "ref")}
	if r, found := source["targetRevision"].(string); found {
		p.Revision = &r
	}
	return p
}

// is says that the pin is of the source.
func (p pin) is(source map[string]any) bool {
	now := pinOf(source)
	now.Revision = p.Revision
	return now == p
}

func wasOf(h *gitops.Held) (was, error) {
	var w was
	err := h.Before(&w)
	return w, err
}

// Key is the identity of an Application.
func (a Argo) Key(o v1alpha1.EngineObject) object.Key {
	return object.Key{Group: kindApplication.Group, Kind: kindApplication.Kind, Namespace: o.Namespace, Name: o.Name}
}

// Hold turns the auto-sync of each object off that has not been released.
func (a Argo) Hold(ctx context.Context, t gitops.Task) error {
	return a.EditEach(ctx, t, kindApplication, func(v1alpha1.EngineObject) bool { return true }, hold)
}

func hold(t gitops.Task, u *unstructured.Unstructured, held *gitops.Held) error {
	if held != nil && held.Released {
		return nil
	}
	if held == nil {
		if err := gitops.MarkWith(u, t.Owner, gitops.Held{At: t.Now}, was{Automated: automated(u)}); err != nil {
			return err
		}
	}
	unstructured.RemoveNestedField(u.Object, "spec", "syncPolicy", "automated")
	return nil
}

// Pin has the units deploy the commit.
func (a Argo) Pin(ctx context.Context, t gitops.Task) error {
	return a.EditEach(ctx, t, kindApplication, func(o v1alpha1.EngineObject) bool { return o.Role == v1alpha1.RoleUnit }, pinSources)
}

func pinSources(t gitops.Task, u *unstructured.Unstructured, held *gitops.Held) error {
	if held == nil || pinned(u, t.Revision) {
		return nil // what is not held yet is not pinned either
	}
	w, err := wasOf(held)
	if err != nil {
		return err
	}
	found := followers(u, t.Revision)
	if len(w.Pinned) == 0 {
		for _, s := range found {
			w.Pinned = append(w.Pinned, pinOf(s))
		}
		if err := gitops.MarkWith(u, t.Owner, *held, w); err != nil {
			return err
		}
	}
	for _, s := range found {
		s["targetRevision"] = t.Revision.Commit
	}
	return nil
}

// Release asks for a sync of the commit and gives auto-sync back, in one patch.
func (a Argo) Release(ctx context.Context, t gitops.Task, o v1alpha1.EngineObject) error {
	return a.EditOne(ctx, t, kindApplication, o, release)
}

func release(t gitops.Task, u *unstructured.Unstructured, held *gitops.Held) error {
	if held == nil || held.Released {
		return nil
	}
	w, err := wasOf(held)
	if err != nil {
		return err
	}
	u.Object["operation"] = operation(u, w)
	if err := giveAutomated(u, w); err != nil {
		return err
	}
	return gitops.MarkReleased(u, t.Owner, *held)
}

// operation is a sync of the revisions that the Application is pinned to. Of several sources Argo CD wants one revision each; an empty
// one stands for what the source names.
func operation(u *unstructured.Unstructured, w was) map[string]any {
	sync := map[string]any{"syncStrategy": map[string]any{"hook": map[string]any{}}}
	var revisions []any
	for _, s := range sourcesOf(u) {
		revisions = append(revisions, field(s, "targetRevision"))
	}
	if several(u) {
		sync["revisions"] = revisions
	} else {
		sync["revision"] = revisions[0]
	}
	if options, found, _ := unstructured.NestedSlice(u.Object, "spec", "syncPolicy", "syncOptions"); found {
		sync["syncOptions"] = options
	}
	if prune, _ := w.Automated["prune"].(bool); prune {
		sync["prune"] = true
	}
	// A sync that failed is not repeated by auto-sync, either: what is in the way may pass.
	retry, found, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "retry")
	if !found {
		retry = map[string]any{"limit": int64(5)}
	}
	return map[string]any{"initiatedBy": map[string]any{"username": v1alpha1.FieldManager}, "sync": sync, "retry": retry}
}

// Observe says where the objects stand.
func (a Argo) Observe(ctx context.Context, t gitops.Task) (gitops.State, error) {
	s := gitops.State{Units: map[object.Key]gitops.Unit{}}
	var unquiet []string
	for _, o := range t.Objects {
		u, held, err := a.Own(ctx, t, kindApplication, o)
		if err != nil {
			return s, err
		}
		if held == nil || !held.Released && automated(u) != nil {
			s.HoldDue = true
		} else if !held.Released {
			why, err := underWay(u, held, t.Now)
			if err != nil {
				return s, err
			}
			unquiet = append(unquiet, why...)
		}
		if o.Role == v1alpha1.RoleUnit {
			s.PinDue = s.PinDue || !pinned(u, t.Revision)
			s.Units[object.KeyOf(u)] = unit(u, held, t.Revision)
		}
	}
	s.Unquiet = strings.Join(unquiet, "; ")
	return s, nil
}

// Undo gives back what the Restore with the UID holds. Nothing is ever waited for.
func (a Argo) Undo(ctx context.Context, uid string, _ time.Time) (string, error) {
	all, err := a.Marked(ctx, kindApplication, uid)
	if err != nil {
		return "", err
	}
	for i := range all {
		if err := a.GiveBack(ctx, &all[i], uid, giveBack); err != nil {
			return "", err
		}
	}
	return "", nil
}

func giveBack(u *unstructured.Unstructured, held *gitops.Held) error {
	w, err := wasOf(held)
	if err != nil {
		return err
	}
	unpin(u, w)
	if held.Released {
		return nil
	}
	return giveAutomated(u, w)
}

func unpin(u *unstructured.Unstructured, w was) {
	for _, s := range sourcesOf(u) {
		i := slices.IndexFunc(w.Pinned, func(p pin) bool { return p.is(s) })
		switch {
		case i < 0:
		case w.Pinned[i].Revision == nil:
			delete(s, "targetRevision")
		default:
			s["targetRevision"] = *w.Pinned[i].Revision
		}
	}
}

func giveAutomated(u *unstructured.Unstructured, w was) error {
	if w.Automated == nil {
		return nil
	}
	return unstructured.SetNestedMap(u.Object, w.Automated, "spec", "syncPolicy", "automated")
}

// underWay says in words what a held Application began before it was held.
func underWay(u *unstructured.Unstructured, held *gitops.Held, now time.Time) ([]string, error) {
	w, err := wasOf(held)
	if err != nil {
		return nil, err
	}
	_, asked := u.Object["operation"]
	phase := gitops.Text(u, "status", "operationState", "phase")
	switch {
	case asked || phase == "Running" || phase == "Terminating":
		return []string{fmt.Sprintf("waiting for the sync of Application %s that is under way to end", gitops.NameOf(u))}, nil
	case w.Automated != nil && now.Sub(held.At) < lag:
		return []string{fmt.Sprintf("waiting for Application %s to stop syncing by itself", gitops.NameOf(u))}, nil
	}
	return nil, nil
}

func unit(u *unstructured.Unstructured, held *gitops.Held, at v1alpha1.Revision) gitops.Unit {
	if held == nil || !held.Released {
		return gitops.Unit{}
	}
	phase, message := gitops.Text(u, "status", "operationState", "phase"), gitops.Text(u, "status", "operationState", "message")
	health := gitops.Text(u, "status", "health", "status")
	switch {
	case !mentions(u, at.Commit, "status", "operationState", "syncResult"):
		return gitops.Unit{Released: true, Message: "its sync of the commit has not begun"}
	case phase != "Succeeded":
		return gitops.Unit{Released: true, Message: strings.TrimSuffix(fmt.Sprintf("its sync is %s: %s", phase, message), ": ")}
	case !mentions(u, at.Commit, "status", "sync"):
		return gitops.Unit{Released: true, Message: "it has not compared the commit yet"}
	case health != "Healthy":
		return gitops.Unit{Released: true, Message: "its health is " + health}
	}
	return gitops.Unit{Released: true, Ready: true}
}

// mentions says that the revision, or one of the revisions, noted in a part of the status is the commit.
func mentions(u *unstructured.Unstructured, commit string, fields ...string) bool {
	several, _, _ := unstructured.NestedStringSlice(u.Object, append(slices.Clone(fields), "revisions")...)
	return gitops.Text(u, append(slices.Clone(fields), "revision")...) == commit || slices.Contains(several, commit)
}

// automated is how an Application syncs by itself; nil if nothing is said of that.
func automated(u *unstructured.Unstructured) map[string]any {
	m, _, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "automated")
	return m
}

// followers are the sources that are to be at the commit: what deploys the path, and what follows the same branch beside it.
func followers(u *unstructured.Unstructured, at v1alpha1.Revision) []map[string]any {
	var beside, found []map[string]any
	branches := map[string]bool{}
	for _, s := range sourcesOf(u) {
		if field(s, "chart") != "" || !revision.SameRepository(field(s, "repoURL"), at.Repository) {
			continue
		}
		beside = append(beside, s)
		if deploys(s, at.Repository, at.Path) {
			branches[branch(s)] = true
		}
	}
	for _, s := range beside {
		if branches[branch(s)] {
			found = append(found, s)
		}
	}
	return found
}

// branch is what a source follows; the repository's default where it names nothing.
func branch(source map[string]any) string { return cmp.Or(field(source, "targetRevision"), "HEAD") }

func pinned(u *unstructured.Unstructured, at v1alpha1.Revision) bool {
	return !slices.ContainsFunc(followers(u, at), func(s map[string]any) bool { return s["targetRevision"] != at.Commit })
}

func several(u *unstructured.Unstructured) bool {
	list, _, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	return len(list) > 0
}

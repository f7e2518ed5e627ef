package apply

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

const (
	// parallel bounds the requests that are under way at once.
	parallel = 16
	// worthListing is the number of objects of one kind in one namespace from which a list is cheaper than asking for each.
	worthListing = 8
	// page bounds the objects of one answer.
	page = 500
)

// each does something with the objects, several at once, and returns every error, in the order of the objects.
func each(ctx context.Context, objects []*unstructured.Unstructured, do func(i int, o *unstructured.Unstructured) error) error {
	failed := make([]error, len(objects))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, o := range objects {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(i, o); err != nil {
				failed[i] = refused(o, err)
			}
			return nil
		})
	}
	return errors.Join(group.Wait(), errors.Join(failed...))
}

// listing is the objects of one kind in one namespace.
type listing struct {
	kind      schema.GroupVersionKind
	namespace string
}

// listed reads many objects of one kind by a list of what carries the application's labels. What is not in it is not proven
// absent: somebody may have taken the labels away.
func (a *Applier) listed(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]*unstructured.Unstructured, error) {
	count := map[listing]int{}
	for _, o := range objects {
		count[listing{o.GroupVersionKind(), o.GetNamespace()}]++
	}
	live := map[object.Key]*unstructured.Unstructured{}
	for l, n := range count {
		if n < worthListing {
			continue
		}
		if err := a.list(ctx, l, live); err != nil {
			return nil, err
		}
	}
	return live, nil
}

// list adds the application's objects of one kind and namespace. Who may not list, or not find the kind, has to ask for each.
func (a *Applier) list(ctx context.Context, l listing, live map[object.Key]*unstructured.Unstructured) error {
	answer := &unstructured.UnstructuredList{}
	answer.SetGroupVersionKind(l.kind)
	mine := client.MatchingLabels{v1alpha1.LabelApplicationName: a.application.Name, v1alpha1.LabelApplicationNamespace: a.application.Namespace}
	for {
		err := a.client.List(ctx, answer, client.InNamespace(l.namespace), mine, client.Limit(page), client.Continue(answer.GetContinue()))
		switch {
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsResourceExpired(err), meta.IsNoMatchError(err):
			return nil
		case err != nil:
			return fmt.Errorf("listing objects of kind %s: %w", l.kind.Kind, err)
		}
		for i := range answer.Items {
			live[object.KeyOf(&answer.Items[i])] = &answer.Items[i]
		}
		if answer.GetContinue() == "" {
			return nil
		}
	}
}

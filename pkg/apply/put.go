package apply

import (
	"context"

	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Put applies one object, with one request: nothing is tried before and nothing is waited for. The object given is not
// modified. The error is an ObjectError.
func (a *Applier) Put(ctx context.Context, o *unstructured.Unstructured) error {
	o = o.DeepCopy()
	a.manager.SetOwnerLabels([]*unstructured.Unstructured{o}, a.application.Name, a.application.Namespace)
	if err := a.place(o); err != nil {
		return refused(o, err)
	}
	if err := a.apply(ctx, o, v1alpha1.FieldManager); err != nil {
		return refused(o, err)
	}
	return nil
}

// Usable tells whether what a definition defines can be created: a namespace is active, the kinds of a
// CustomResourceDefinition are served. Anything else is usable as it is.
func (a *Applier) Usable(ctx context.Context, definition *unstructured.Unstructured) (bool, error) {
	if !utils.IsCRD(definition) && !utils.IsNamespace(definition) {
		return true, nil
	}
	st, err := a.health(ctx, definition)
	if err != nil || st.Health != Current {
		return false, err
	}
	for _, kind := range served(definition) {
		if !a.answers(ctx, kind) {
			return false, ctx.Err()
		}
	}
	return true, nil
}

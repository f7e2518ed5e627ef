package gate

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// lookEvery is how soon Flux is noticed that was installed after the controller began.
const lookEvery = 10 * time.Second

// SetupWithManager makes the manager reconcile Kustomizations, as soon as the cluster serves that kind, and again whenever their source,
// policy or points change.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := indexDeployers(mgr.GetFieldIndexer()); err != nil {
		return err
	}
	c, err := controller.New("gate", mgr, controller.Options{Reconciler: r})
	if err != nil {
		return fmt.Errorf("making the controller: %w", err)
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		if !r.awaitFlux(ctx) {
			return nil
		}
		if err := indexSources(ctx, mgr.GetFieldIndexer()); err != nil {
			return err
		}
		for _, s := range r.sources(mgr.GetCache()) {
			if err := c.Watch(s); err != nil {
				return fmt.Errorf("watching Flux: %w", err)
			}
		}
		return nil
	}))
}

// awaitFlux waits until Flux's kinds are served: an informer on a kind that is not would end the manager.
func (r *Reconciler) awaitFlux(ctx context.Context) bool {
	every := r.Look
	if every == 0 {
		every = lookEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		served, err := r.served()
		if err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "asking whether the cluster has Flux")
		}
		if served {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func (r *Reconciler) served() (bool, error) {
	for _, kind := range []schema.GroupVersionKind{flux.KindKustomization(), flux.KindRepository()} {
		_, err := r.Client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *Reconciler) sources(c cache.Cache) []source.Source {
	return []source.Source{
		source.Kind(c, of(flux.KindKustomization()), &handler.TypedEnqueueRequestForObject[*unstructured.Unstructured]{}),
		source.Kind(c, of(flux.KindRepository()), handler.TypedEnqueueRequestsFromMapFunc(
			func(ctx context.Context, u *unstructured.Unstructured) []reconcile.Request {
				return ofSource(ctx, c, u)
			})),
		source.Kind(c, &v1alpha1.ProtectionPolicy{}, handler.TypedEnqueueRequestsFromMapFunc(r.ofPolicy)),
		source.Kind(c, &v1alpha1.RestorePoint{}, handler.TypedEnqueueRequestsFromMapFunc(r.ofPoint)),
	}
}

func of(kind schema.GroupVersionKind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	return u
}

// ofSource are the Kustomizations that deploy what a GitRepository gives.
func ofSource(ctx context.Context, c client.Reader, repository *unstructured.Unstructured) []reconcile.Request {
	list := &unstructured.UnstructuredList{}
	kind := flux.KindKustomization()
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := c.List(ctx, list, client.MatchingFields{bySource: nameOf(repository).String()}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing Kustomizations")
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

func (r *Reconciler) ofPolicy(ctx context.Context, p *v1alpha1.ProtectionPolicy) []reconcile.Request {
	by, err := r.deployer(ctx, p)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "finding out which Kustomization deploys a policy", "policy", client.ObjectKeyFromObject(p))
		return nil
	}
	if by.Name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey(by)}}
}

// ofPoint looks at the Kustomization again that may wait for a point.
func (r *Reconciler) ofPoint(ctx context.Context, point *v1alpha1.RestorePoint) []reconcile.Request {
	if point.Spec.Trigger != v1alpha1.TriggerPreDeploy {
		return nil
	}
	p := &v1alpha1.ProtectionPolicy{}
	if err := r.Client.Get(ctx, client.ObjectKey{Namespace: point.Namespace, Name: point.Spec.PolicyRef.Name}, p); err != nil {
		if client.IgnoreNotFound(err) != nil {
			ctrl.LoggerFrom(ctx).Error(err, "reading the policy of a restore point", "point", client.ObjectKeyFromObject(point))
		}
		return nil
	}
	return r.ofPolicy(ctx, p)
}

func nameOf(o client.Object) object.Name { return object.Name(client.ObjectKeyFromObject(o)) }

// Package gate lets Flux deploy a revision when the restore point before it is complete, and takes points after deploys.
//
// What keeps Flux from deploying is an admission policy (manifests/gate), not this controller: while the controller is away, gates stay
// closed. Where a deploy stands is read from the world each time: what the source has, what Flux attempted and applied, and the points,
// whose names follow from the deploy. Since when it waits is written onto the Kustomization before any point is asked for.
package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/policy"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// +kubebuilder:rbac:groups=kustomize.toolkit.fluxcd.io,resources=kustomizations,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=source.toolkit.fluxcd.io,resources=gitrepositories,verbs=get;list;watch
// +kubebuilder:rbac:groups=helm.toolkit.fluxcd.io,resources=helmreleases,verbs=get
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies/status,verbs=get;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints,verbs=get;list;watch;create
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch

// Reconciler reconciles Kustomizations of Flux.
type Reconciler struct {
	Client client.Client
	// Reader reads from the API server itself: what a Kustomization says must not be older than what was done to it.
	Reader client.Reader
	Events record.EventRecorder
	Clock  clock.PassiveClock
	// Look is how often to look whether Flux has been installed, while it is not; lookEvery if zero.
	Look time.Duration
}

// Reconcile decides whether what comes may be deployed, and does what is next.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	engine := r.flux()
	g, u, err := engine.Gate(ctx, object.Name(req.NamespacedName))
	if err != nil || g == nil {
		return ctrl.Result{}, err
	}
	found, err := r.protections(ctx, g.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	v := decide(*g, found, r.Clock.Now())
	if err := r.tell(ctx, u, *g, v); err != nil {
		return ctrl.Result{}, err
	}
	for _, ask := range v.ask {
		if err := r.ask(ctx, ask, fmt.Sprintf("Kustomization %s waits to deploy %s", g.Name, short(g.Incoming))); err != nil {
			return ctrl.Result{}, err
		}
	}
	for _, p := range found {
		if err := r.afterDeploy(ctx, *g, p.policy); err != nil {
			return ctrl.Result{}, err
		}
		if err := r.show(ctx, *g, v, p.policy); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: v.after}, nil
}

func (r *Reconciler) flux() flux.Flux {
	return flux.Flux{Cluster: gitops.Cluster{Client: r.Client, Reader: r.Reader}}
}

// protections are the policies of what a Kustomization deploys, with their points.
func (r *Reconciler) protections(ctx context.Context, name object.Name) ([]protection, error) {
	policies, err := r.candidates(ctx, name)
	if err != nil {
		return nil, err
	}
	var out []protection
	for _, p := range policies {
		by, err := r.deployer(ctx, p)
		if err != nil {
			return nil, err
		}
		if by != name || p.DeletionTimestamp != nil {
			continue
		}
		var points v1alpha1.RestorePointList
		if err := r.Client.List(ctx, &points, client.InNamespace(p.Namespace)); err != nil {
			return nil, fmt.Errorf("listing restore points: %w", err)
		}
		out = append(out, protection{p, points.Items})
	}
	slices.SortFunc(out, func(a, b protection) int { return nameOf(a.policy).Compare(nameOf(b.policy)) })
	return out, nil
}

// deployer is the Kustomization that deploys what a policy protects: that of the policy itself, else that of its claims.
func (r *Reconciler) deployer(ctx context.Context, p *v1alpha1.ProtectionPolicy) (object.Name, error) {
	engine := r.flux()
	by, err := engine.AppliedBy(ctx, p)
	if err != nil || by.Name != "" {
		return by, err
	}
	claims, err := policy.Claims(ctx, r.Client, p)
	if invalid := (*policy.InvalidError)(nil); errors.As(err, &invalid) {
		return by, nil // the policy says so itself
	}
	for i := range claims {
		if by, err = engine.AppliedBy(ctx, &claims[i]); err != nil || by.Name != "" {
			return by, err
		}
	}
	return by, err
}

// tell writes onto the Kustomization what was decided, and says it in an event, if that is new.
func (r *Reconciler) tell(ctx context.Context, u *unstructured.Unstructured, g flux.Gate, v verdict) error {
	after := u.DeepCopy()
	switch {
	case v.approve:
		flux.Approve(after, g.Incoming, r.Clock.Now())
	case v.withdraw:
		flux.Withdraw(after)
	}
	if err := flux.Explain(after, v.waiting); err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(u, after) {
		return nil
	}
	if err := r.flux().Change(ctx, u, after); err != nil {
		return client.IgnoreNotFound(err)
	}
	switch {
	case v.approve && v.reason == v1alpha1.ReasonApproved:
		r.Events.Eventf(u, corev1.EventTypeNormal, v.reason, "%s may be deployed: %s", short(g.Incoming), v.why)
	case v.approve:
		r.Events.Eventf(u, corev1.EventTypeWarning, v.reason, "%s may be deployed without a restore point: %s", short(g.Incoming), v.why)
	case v.waiting != nil && said(g.Waiting, v.waiting):
		kind := corev1.EventTypeWarning
		if v.waiting.Reason == v1alpha1.ReasonTakingPoint {
			kind = corev1.EventTypeNormal
		}
		r.Events.Eventf(u, kind, v.waiting.Reason, "%s waits to be deployed: %s", short(g.Incoming), v.waiting.Message)
	}
	return nil
}

// said reports whether there is something new to say.
func said(before, now *flux.Waiting) bool {
	return before == nil || before.To != now.To || before.Reason != now.Reason || before.Message != now.Message
}

// ask makes a RestorePoint. Its name follows from the deploy, so that a controller that dies here finds it again.
func (r *Reconciler) ask(ctx context.Context, a request, why string) error {
	point := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: a.policy.Namespace, Name: a.name,
			Labels: map[string]string{v1alpha1.LabelPolicy: a.policy.Name, v1alpha1.LabelManagedBy: "lockstep"},
		},
		Spec: v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: a.policy.Name}, Trigger: a.trigger, Before: a.before},
	}
	switch err := r.Client.Create(ctx, point); {
	case apierrors.IsAlreadyExists(err):
	case err != nil:
		return fmt.Errorf("creating restore point %q: %w", point.Name, err)
	default:
		r.Events.Eventf(a.policy, corev1.EventTypeNormal, "PointRequested", "restore point %q is asked for: %s", point.Name, why)
	}
	return nil
}

// afterDeploy asks for the point of a revision that has just been deployed, once.
func (r *Reconciler) afterDeploy(ctx context.Context, g flux.Gate, p *v1alpha1.ProtectionPolicy) error {
	due, now := after(g, p)
	if due != nil {
		if err := r.ask(ctx, *due, fmt.Sprintf("Kustomization %s has deployed %s", g.Name, short(g.Applied))); err != nil {
			return err
		}
	}
	if now == nil {
		return nil
	}
	before := p.DeepCopy()
	p.Status.LastDeploy = now
	if err := r.Client.Status().Patch(ctx, p, client.MergeFrom(before), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("noting the deploy on policy %q: %w", p.Name, client.IgnoreNotFound(err))
	}
	return nil
}

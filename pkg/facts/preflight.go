package facts

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// atOnce is how many questions are under way at the same time.
const atOnce = 8

// Inspector finds out what may keep the restore of a plan from ending, before it begins.
type Inspector struct {
	// Reader must not be a stale cache.
	Reader client.Reader
	Mapper meta.RESTMapper
	// Allowed says whether the controller may do something; see Self and Controller. It is nil where there is no controller yet.
	Allowed func(context.Context, authorizationv1.ResourceAttributes) (bool, error)
	// Try applies an object and changes nothing; see Trial. If it is nil, nothing is tried.
	Try func(context.Context, *unstructured.Unstructured) error
}

// Self asks whether the client itself may.
func Self(c client.Writer) func(context.Context, authorizationv1.ResourceAttributes) (bool, error) {
	return func(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
		err := c.Create(ctx, review)
		return review.Status.Allowed, err
	}
}

// Controller asks whether the controller's account may, on behalf of somebody else.
func Controller(c client.Writer) func(context.Context, authorizationv1.ResourceAttributes) (bool, error) {
	const group = "system:serviceaccounts"
	return func(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			ResourceAttributes: &what,
			User:               "system:serviceaccount:" + v1alpha1.SystemNamespace + ":" + ControllerAccount,
			Groups:             []string{group, group + ":" + v1alpha1.SystemNamespace, "system:authenticated"},
		}}
		err := c.Create(ctx, review)
		return review.Status.Allowed, err
	}
}

// ControllerAccount is the name of the controller's service account in lockstep-system.
const ControllerAccount = "lockstep-controller"

// Preflight asks the cluster about a plan. RestoreUID is that of the plan's Restore, empty for a dry run. What the cluster does not let be
// asked is among NotChecked; an error means that it did not answer.
func (i Inspector) Preflight(ctx context.Context, p *plan.Plan, residual []object.Key, restoreUID string) (plan.Preflight, error) {
	known := plan.Preflight{Capacity: map[string]plan.Capacity{}}
	var err error
	if known.Begun, err = i.begun(ctx, restoreUID); err != nil {
		return known, err
	}
	for _, look := range []struct {
		at func() error
		// what cannot be told without it.
		what string
	}{
		{func() error { return i.access(ctx, p, residual, &known) }, "what the controller may do"},
		{func() error { return i.quotas(ctx, p, &known) }, "whether quotas leave room for the claims"},
		{func() error { return i.capacities(ctx, p, &known) }, "whether the storage has room for the volumes"},
		{func() error { return i.fixed(ctx, p, &known) }, "whether the workloads that exist can become the commit's"},
	} {
		err := look.at()
		if apierrors.IsForbidden(err) || meta.IsNoMatchError(err) {
			known.NotChecked = append(known.NotChecked, look.what+": "+err.Error())
			err = nil
		}
		if err != nil {
			return known, fmt.Errorf("asking %s: %w", look.what, err)
		}
	}
	return known, nil
}

// begun says whether the restore has made claims.
func (i Inspector) begun(ctx context.Context, restoreUID string) (bool, error) {
	if restoreUID == "" {
		return false, nil
	}
	var claims corev1.PersistentVolumeClaimList
	if err := i.Reader.List(ctx, &claims, client.MatchingLabels{v1alpha1.LabelRestore: restoreUID}, client.Limit(1)); err != nil {
		return false, fmt.Errorf("listing the restore's claims: %w", err)
	}
	return len(claims.Items) > 0, nil
}

// access asks first whether the controller may do everything, which is what it is installed with.
func (i Inspector) access(ctx context.Context, p *plan.Plan, residual []object.Key, known *plan.Preflight) error {
	if i.Allowed == nil {
		known.NotChecked = append(known.NotChecked, "what the controller may do: it is not in this cluster yet; lockstep install lets it do everything")
		return nil
	}
	all, err := i.Allowed(ctx, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"})
	if err != nil || all {
		return err
	}
	accesses := p.Accesses(residual) // without duplicates
	denied := make([]bool, len(accesses))
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for n, a := range accesses {
		g.Go(func() error {
			resource, err := i.resource(a.Kind, p)
			if err != nil || resource.Resource == "" {
				return err // that a kind is not served is refused already
			}
			allowed, err := i.Allowed(group, authorizationv1.ResourceAttributes{
				Verb: a.Verb, Group: resource.Group, Resource: resource.Resource, Namespace: a.Namespace,
			})
			denied[n] = !allowed
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for n, a := range accesses {
		if denied[n] {
			known.Denied = append(known.Denied, a)
		}
	}
	return nil
}

// resource is the name of a kind in requests, empty if neither the cluster nor the commit knows it.
func (i Inspector) resource(kind schema.GroupKind, p *plan.Plan) (schema.GroupResource, error) {
	mapping, err := i.Mapper.RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return schema.GroupResource{Group: kind.Group, Resource: p.Resource(kind)}, nil
	}
	if err != nil {
		return schema.GroupResource{}, err
	}
	return mapping.Resource.GroupResource(), nil
}

// quotas reads the quotas and claims of the namespaces in which the plan makes claims.
func (i Inspector) quotas(ctx context.Context, p *plan.Plan, known *plan.Preflight) error {
	var quotas []plan.Quota
	var claimed []plan.Room
	for _, namespace := range namespaces(p) {
		var list corev1.ResourceQuotaList
		if err := i.Reader.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, q := range list.Items {
			name := object.Name{Namespace: q.Namespace, Name: q.Name}
			if q.Spec.ScopeSelector != nil || len(q.Spec.Scopes) > 0 {
				known.NotChecked = append(known.NotChecked, fmt.Sprintf("quota %s: it counts only objects of some scopes", name))
				continue
			}
			quotas = append(quotas, plan.Quota{Name: name, Hard: q.Spec.Hard, Used: q.Status.Used})
		}
		var claims corev1.PersistentVolumeClaimList
		if err := i.Reader.List(ctx, &claims, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, c := range claims.Items {
			room := plan.Room{Claim: object.Name{Namespace: c.Namespace, Name: c.Name}, Bytes: c.Spec.Resources.Requests.Storage().Value()}
			if c.Spec.StorageClassName != nil {
				room.Class = *c.Spec.StorageClassName
			}
			claimed = append(claimed, room)
		}
	}
	known.Quotas, known.Claimed = quotas, claimed
	return nil
}

func namespaces(p *plan.Plan) []string {
	staged, own, empty := p.Rooms()
	var names []string
	for _, r := range slices.Concat(staged, own, empty) {
		names = append(names, r.Claim.Namespace)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// capacities reads what drivers publish of the classes that the plan uses.
func (i Inspector) capacities(ctx context.Context, p *plan.Plan, known *plan.Preflight) error {
	staged, _, empty := p.Rooms()
	wanted := map[string]bool{}
	for _, r := range slices.Concat(staged, empty) {
		wanted[r.Class] = true
	}
	var classes storagev1.StorageClassList
	if err := i.Reader.List(ctx, &classes); err != nil {
		return err
	}
	var published storagev1.CSIStorageCapacityList
	if err := i.Reader.List(ctx, &published); err != nil {
		return err
	}
	for _, class := range classes.Items {
		if !wanted[class.Name] {
			continue
		}
		c := plan.Capacity{Driver: class.Provisioner}
		publishes, err := i.publishes(ctx, class.Provisioner)
		if err != nil {
			return err
		}
		for _, s := range published.Items {
			if s.StorageClassName != class.Name || s.Capacity == nil || !publishes {
				continue
			}
			c.Published = true
			c.Total += s.Capacity.Value()
			largest := s.Capacity.Value()
			if s.MaximumVolumeSize != nil {
				largest = s.MaximumVolumeSize.Value()
			}
			c.Largest = max(c.Largest, largest)
		}
		known.Capacity[class.Name] = c
	}
	return nil
}

// publishes says whether a driver keeps what it publishes of its capacity up to date.
func (i Inspector) publishes(ctx context.Context, driver string) (bool, error) {
	var d storagev1.CSIDriver
	err := i.Reader.Get(ctx, client.ObjectKey{Name: driver}, &d)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return d.Spec.StorageCapacity != nil && *d.Spec.StorageCapacity, err
}

// PullSecrets returns the Secrets with which the plan's pods pull an image, as far as the cluster has them.
func (i Inspector) PullSecrets(ctx context.Context, images []plan.Image) ([]corev1.Secret, error) {
	var names, accounts []object.Name
	for _, image := range images {
		names, accounts = append(names, image.PullSecrets...), append(accounts, image.Accounts...)
	}
	for _, name := range unique(accounts) {
		var account corev1.ServiceAccount
		if err := i.Reader.Get(ctx, client.ObjectKey(name), &account); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("reading service account %q: %w", name, err)
		}
		for _, s := range account.ImagePullSecrets {
			names = append(names, object.Name{Namespace: name.Namespace, Name: s.Name})
		}
	}
	var secrets []corev1.Secret
	for _, name := range unique(names) {
		var s corev1.Secret
		if err := i.Reader.Get(ctx, client.ObjectKey(name), &s); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("reading secret %q: %w", name, err)
		}
		secrets = append(secrets, s)
	}
	return secrets, nil
}

func unique(names []object.Name) []object.Name {
	slices.SortFunc(names, func(a, b object.Name) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(names)
}

package facts

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// Trial applies an object and changes nothing.
func Trial(c client.Client) func(context.Context, *unstructured.Unstructured) error {
	return func(ctx context.Context, o *unstructured.Unstructured) error {
		return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(o.DeepCopy()), client.DryRunAll, client.FieldOwner(v1alpha1.FieldManager), client.ForceOwnership)
	}
}

// fixed finds the workloads that exist and cannot become the commit's, as a Job with another template. An engine of GitOps has ways of its
// own with these. Whatever else the API server says of one may pass.
func (i Inspector) fixed(ctx context.Context, p *plan.Plan, known *plan.Preflight) error {
	if i.Try == nil || known.Begun || p.Engine.Manages() {
		return nil
	}
	there, err := i.workloads(ctx, p)
	if err != nil {
		return err
	}
	fields := make([][]string, len(there))
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for n, o := range there {
		g.Go(func() error {
			err := i.Try(group, o.Manifest)
			if apierrors.IsForbidden(err) {
				return err
			}
			fields[n] = invalid(err)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for n, o := range there {
		if len(fields[n]) > 0 {
			known.Fixed = append(known.Fixed, plan.Fixed{Key: o.Key, Fields: fields[n]})
		}
	}
	return nil
}

// workloads are those of the plan that exist.
func (i Inspector) workloads(ctx context.Context, p *plan.Plan) ([]plan.Workload, error) {
	type kind struct {
		schema.GroupVersionKind
		namespace string
	}
	listed := map[kind]map[string]bool{}
	var there []plan.Workload
	for _, o := range p.Workloads {
		of := kind{o.Manifest.GroupVersionKind(), o.Namespace}
		if listed[of] == nil {
			list := &metav1.PartialObjectMetadataList{}
			list.SetGroupVersionKind(of.GroupVersion().WithKind(of.Kind + "List"))
			if err := i.Reader.List(ctx, list, client.InNamespace(of.namespace)); err != nil {
				return nil, err
			}
			listed[of] = map[string]bool{}
			for _, item := range list.Items {
				listed[of][item.Name] = true
			}
		}
		if listed[of][o.Name] {
			there = append(there, o)
		}
	}
	return there, nil
}

// invalid names the fields that the API server does not take. What it says of them may be long, or hold what is in them.
func invalid(err error) []string {
	var answer apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &answer) || answer.Status().Details == nil {
		return nil
	}
	var fields []string
	for _, cause := range answer.Status().Details.Causes {
		fields = append(fields, cause.Field)
	}
	return fields
}

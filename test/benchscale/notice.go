package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// noticeLimit bounds the wait for what is to be noticed.
const noticeLimit = 5 * time.Minute

// measureNotice does one thing after the other that the controller is to notice, and measures when its answer can be read.
func (b *bench) measureNotice(ctx context.Context) error {
	for t, thing := range []struct {
		what string
		flux bool
		do   func(ctx context.Context, ns string) (time.Duration, error)
	}{
		{"a new revision that waits at Flux's gate", true, b.noticeRevision},
		{"a revision that Flux has deployed", true, b.noticeDeploy},
		{"a point that is asked for, of what Flux deploys", true, b.noticePoint},
		{"a point that is asked for, of what Argo CD deploys, as its hook does", false, b.noticePoint},
		{"a change of a policy", true, b.noticePolicy},
	} {
		b.sayf("noticing %s, %d times", thing.what, b.samples)
		n := noticed{what: thing.what}
		for i := range b.samples {
			took, err := thing.do(ctx, namespace(b.ofEngine(t*b.samples+i, thing.flux)))
			if err != nil {
				return fmt.Errorf("noticing %s: %w", thing.what, err)
			}
			n.took = append(n.took, took)
		}
		b.report.noticed = append(b.report.noticed, n)
	}
	return nil
}

// noticeRevision has a source give a new commit, which the gate does not let through; the answer is the point that is asked for.
func (b *bench) noticeRevision(ctx context.Context, ns string) (time.Duration, error) {
	source := &sourcev1.GitRepository{}
	if err := b.client.Get(ctx, client.ObjectKey{Namespace: ns, Name: policyName}, source); err != nil {
		return 0, err
	}
	source.Status.Artifact = artifact(fluxRevision(1))
	return b.answered(ctx, &v1alpha1.RestorePointList{}, ns, func(ctx context.Context) error { return b.client.Status().Update(ctx, source) },
		isPoint(v1alpha1.TriggerPreDeploy))
}

// noticeDeploy has a Kustomization say that it has applied a new commit; the answer is the point that is asked for.
func (b *bench) noticeDeploy(ctx context.Context, ns string) (time.Duration, error) {
	k := &kustomizev1.Kustomization{}
	if err := b.client.Get(ctx, client.ObjectKey{Namespace: ns, Name: policyName}, k); err != nil {
		return 0, err
	}
	k.Status.LastAppliedRevision, k.Status.LastAttemptedRevision = fluxRevision(1), fluxRevision(1)
	return b.answered(ctx, &v1alpha1.RestorePointList{}, ns, func(ctx context.Context) error { return b.client.Status().Update(ctx, k) },
		isPoint(v1alpha1.TriggerPostDeploy))
}

func isPoint(trigger v1alpha1.Trigger) func(client.Object) bool {
	return func(o client.Object) bool {
		p, ok := o.(*v1alpha1.RestorePoint)
		return ok && p.Spec.Trigger == trigger
	}
}

// noticePoint asks for a point; that it cannot begin without a class of snapshots, is the answer. What runs is known by then.
func (b *bench) noticePoint(ctx context.Context, ns string) (time.Duration, error) {
	p := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "asked"},
		Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: policyName}, Trigger: v1alpha1.TriggerManual},
	}
	return b.answered(ctx, &v1alpha1.RestorePointList{}, ns, func(ctx context.Context) error { return b.client.Create(ctx, p) },
		func(o client.Object) bool {
			p, ok := o.(*v1alpha1.RestorePoint)
			return ok && p.Name == "asked" && len(p.Status.Conditions) > 0
		})
}

func (b *bench) noticePolicy(ctx context.Context, ns string) (time.Duration, error) {
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":true}}`))
	p := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: policyName}}
	return b.answered(ctx, &v1alpha1.ProtectionPolicyList{}, ns, func(ctx context.Context) error { return b.client.Patch(ctx, p, patch) },
		func(o client.Object) bool {
			seen, ok := o.(*v1alpha1.ProtectionPolicy)
			return ok && seen.Generation > 1 && seen.Status.ObservedGeneration == seen.Generation
		})
}

// answered does something, and waits for the answer on a watch that has begun before.
func (b *bench) answered(ctx context.Context, list client.ObjectList, ns string, do func(context.Context) error, is func(client.Object) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, noticeLimit)
	defer cancel()
	w, err := b.client.Watch(ctx, list, client.InNamespace(ns))
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	start := time.Now()
	if err := do(ctx); err != nil {
		return 0, err
	}
	for {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no answer: %w: %s", context.Cause(ctx), b.controller.lastWords())
		case e, ok := <-w.ResultChan():
			if !ok {
				return 0, errors.New("the watch ended")
			}
			if o, ok := e.Object.(client.Object); ok && is(o) {
				return time.Since(start), nil
			}
		}
	}
}

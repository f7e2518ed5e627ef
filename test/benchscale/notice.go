package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// noticeLimit bounds the wait for what is to be noticed.
const noticeLimit = time.Minute

// measureNotice does one thing after the other that the controller is to notice, and measures when its answer can be read.
func (b *bench) measureNotice(ctx context.Context) error {
	for _, thing := range []struct {
		what string
		do   func(ctx context.Context, i int) (time.Duration, error)
	}{
		{"a point that is asked for", b.noticePoint},
		{"a change of a policy", b.noticePolicy},
	} {
		b.sayf("noticing %s, %d times", thing.what, b.samples)
		n := noticed{what: thing.what}
		for i := range b.samples {
			took, err := thing.do(ctx, i*max(1, b.policies/b.samples))
			if err != nil {
				return fmt.Errorf("noticing %s: %w", thing.what, err)
			}
			n.took = append(n.took, took)
		}
		b.report.noticed = append(b.report.noticed, n)
	}
	return nil
}

// noticePoint asks for a point; that it cannot begin without a class of snapshots, is the answer.
func (b *bench) noticePoint(ctx context.Context, i int) (time.Duration, error) {
	p := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace(i), Name: "asked"},
		Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: policyName}, Trigger: v1alpha1.TriggerManual},
	}
	return b.answered(ctx, &v1alpha1.RestorePointList{}, p.Namespace, func(ctx context.Context) error { return b.client.Create(ctx, p) },
		func(o client.Object) bool {
			p, ok := o.(*v1alpha1.RestorePoint)
			return ok && p.Name == "asked" && len(p.Status.Conditions) > 0
		})
}

func (b *bench) noticePolicy(ctx context.Context, i int) (time.Duration, error) {
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":true}}`))
	p := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace(i), Name: policyName}}
	return b.answered(ctx, &v1alpha1.ProtectionPolicyList{}, p.Namespace, func(ctx context.Context) error { return b.client.Patch(ctx, p, patch) },
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

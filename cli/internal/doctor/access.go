package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// wish is something to be allowed, and what for.
type wish struct {
	authorizationv1.ResourceAttributes
	what string
}

func checkCaller(ctx context.Context, s *Subject) ([]Finding, error) {
	group := v1alpha1.GroupVersion.Group
	in := func(namespace, verb, group, resource, what string) wish {
		return wish{authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Group: group, Resource: resource}, what}
	}
	system := v1alpha1.SystemNamespace
	wishes := []wish{
		in(system, "create", group, "restores", "begin a restore"),
		in(system, "get", group, "restores", "watch a restore"),
		in(system, "delete", group, "restores", "cancel a restore"),
		in("", "create", group, "restorepoints", "take a point"),
		in("", "list", group, "vaults", "find the vaults"),
		in(system, "get", "", "secrets", "open a vault from here with the cluster's key"),
	}
	allowed, err := s.allowed(ctx, wishes, func(a *authorizationv1.ResourceAttributes) (bool, error) {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: a}}
		err := s.Cluster.Create(ctx, review)
		return review.Status.Allowed, err
	})
	if err != nil {
		return nil, err
	}
	var out []Finding
	for i, w := range wishes {
		if !allowed[i] {
			out = append(out, warning("Use a kubeconfig context that may, or have it granted.", "you may not %s: %s %s%s", w.what, w.Verb, w.Resource, inNamespace(w.Namespace)))
		}
	}
	if len(out) == 0 {
		out = append(out, ok("you may begin, watch and cancel restores, and take points"))
	}
	return out, nil
}

func inNamespace(namespace string) string {
	if namespace == "" {
		return ""
	}
	return " in namespace " + namespace
}

// checkAccount asks for every rule that this version's roles have, whether the controller's account is allowed it, however it
// came by it.
func checkAccount(ctx context.Context, s *Subject) ([]Finding, error) {
	wishes, err := needs()
	if err != nil {
		return nil, err
	}
	account := "system:serviceaccount:" + v1alpha1.SystemNamespace + ":lockstep-controller"
	groups := []string{"system:serviceaccounts", "system:serviceaccounts:" + v1alpha1.SystemNamespace, "system:authenticated"}
	allowed, err := s.allowed(ctx, wishes, func(a *authorizationv1.ResourceAttributes) (bool, error) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: account, Groups: groups, ResourceAttributes: a}}
		err := s.Cluster.Create(ctx, review)
		return review.Status.Allowed, err
	})
	if err != nil {
		return nil, err
	}
	var missing []string
	for i, w := range wishes {
		if !allowed[i] {
			missing = append(missing, w.what)
		}
	}
	if len(missing) == 0 {
		return []Finding{ok("the controller's account has all that this version needs")}, nil
	}
	slices.Sort(missing)
	missing = slices.Compact(missing)
	if slices.Equal(missing, []string{anything}) {
		return []Finding{warning("Bind it to cluster-admin again: "+fixInstall, "the controller's account may save, and not apply whatever a commit holds: "+
			"only objects that it is allowed otherwise can be restored")}, nil
	}
	return []Finding{problem(fixInstall, "the controller's account may not: %s", strings.Join(missing, "; "))}, nil
}

// anything is what a restore may have to apply.
const anything = "apply anything"

// needs are the rules of the roles that are installed with the controller.
func needs() ([]wish, error) {
	objects, err := manifests.Objects("none")
	if err != nil {
		return nil, err
	}
	out := []wish{{authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"}, anything}}
	for _, u := range objects {
		if kind := u.GetKind(); kind != "ClusterRole" && kind != "Role" {
			continue
		}
		var role rbacv1.Role // the rules of both kinds are alike
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &role); err != nil {
			return nil, fmt.Errorf("reading role %q: %w", u.GetName(), err)
		}
		for _, r := range role.Rules {
			out = append(out, ofRule(r, u.GetNamespace())...)
		}
	}
	return out, nil
}

func ofRule(r rbacv1.PolicyRule, namespace string) []wish {
	var out []wish
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			main, sub, _ := strings.Cut(resource, "/")
			for _, verb := range r.Verbs {
				out = append(out, wish{
					authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Group: group, Resource: main, Subresource: sub},
					verb + " " + strings.Trim(resource+"."+group, "."),
				})
			}
		}
	}
	return out
}

// reviewers bounds the questions under way: there are dozens.
const reviewers = 8

func (s *Subject) allowed(ctx context.Context, wishes []wish, ask func(*authorizationv1.ResourceAttributes) (bool, error)) ([]bool, error) {
	out := make([]bool, len(wishes))
	errs := make([]error, len(wishes))
	slots := make(chan struct{}, reviewers)
	var wait sync.WaitGroup
	for i := range wishes {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if errs[i] = ctx.Err(); errs[i] == nil {
				out[i], errs[i] = ask(&wishes[i].ResourceAttributes)
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("asking what is allowed: %w", err)
		}
	}
	return out, nil
}

package ruler

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/argocd"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// asked is a question to one engine about an object: nil if the object is not its own.
type asked func(context.Context, metav1.Object) (*gitops.Deploying, error)

// Deploying says what is deployed by the engine that an object came from; nil if none says it is its own. An error means that the
// cluster could not be asked.
func Deploying(ctx context.Context, c gitops.Cluster, o metav1.Object) (*gitops.Deploying, error) {
	return first(ctx, o, "asking which commit is deployed", flux.Flux{Cluster: c}.Deploying, argocd.Argo{Cluster: c}.Deploying)
}

// Running says what runs of the engine that an object came from; nil if none says it is its own. An error means that the cluster
// could not be asked.
func Running(ctx context.Context, c gitops.Cluster, o metav1.Object) (*gitops.Deploying, error) {
	return first(ctx, o, "asking which commit is running", flux.Flux{Cluster: c}.Running, argocd.Argo{Cluster: c}.Running)
}

func first(ctx context.Context, o metav1.Object, what string, engines ...asked) (*gitops.Deploying, error) {
	for _, ask := range engines {
		found, err := ask(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, nil
}

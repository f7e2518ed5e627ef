package ruler

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/argocd"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// Deploying says what is deployed by the engine that an object came from; nil if none says it is its own. An error means that the
// cluster could not be asked.
func Deploying(ctx context.Context, c gitops.Cluster, o metav1.Object) (*gitops.Deploying, error) {
	for _, ask := range []func(context.Context, metav1.Object) (*gitops.Deploying, error){
		flux.Flux{Cluster: c}.Deploying, argocd.Argo{Cluster: c}.Deploying,
	} {
		found, err := ask(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("asking which commit is deployed: %w", err)
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, nil
}

package shop

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/test/lab"
)

// FrontBeforeData proves that the stateless front was up before the database had its data: it returns when the front's
// pod became Ready and when the database's container could start, both in the kubelet's words (whole seconds), and an
// error where the order is the other way round.
func FrontBeforeData(ctx context.Context, c *lab.Cluster) (front, database time.Time, err error) {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(Namespace)); err != nil {
		return front, database, err
	}
	for _, pod := range pods.Items {
		switch pod.Labels["app"] {
		case "front":
			for _, cond := range pod.Status.Conditions {
				if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
					front = cond.LastTransitionTime.Time
				}
			}
		case "database":
			for _, s := range pod.Status.ContainerStatuses {
				if s.State.Running != nil {
					database = s.State.Running.StartedAt.Time
				}
			}
		}
	}
	if front.IsZero() || database.IsZero() {
		return front, database, fmt.Errorf("the front or the database is not running: front Ready %v, database started %v", front, database)
	}
	if !front.Before(database) {
		return front, database, fmt.Errorf("the front was Ready at %v, not before the database had its data at %v", front, database)
	}
	return front, database, nil
}

package residual

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Discovery says which kinds a cluster serves; client-go's discovery client does.
type Discovery interface {
	ServerPreferredNamespacedResources() ([]*metav1.APIResourceList, error)
}

// Kinds asks a cluster for the kinds that may hold something residual: namespaced ones that can be listed and created, and
// that nobody derives from others. It is complete or an error: an API group that does not answer is never left out, unless
// all of it is derived.
func Kinds(d Discovery) ([]schema.GroupVersionKind, error) {
	lists, err := d.ServerPreferredNamespacedResources()
	if err := unanswered(err); err != nil {
		return nil, fmt.Errorf("asking which kinds the cluster serves: %w", err)
	}
	var kinds []schema.GroupVersionKind
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("asking which kinds the cluster serves: %w", err)
		}
		for _, r := range list.APIResources {
			gvk := gv.WithKind(r.Kind)
			subresource := strings.Contains(r.Name, "/")
			if !subresource && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "create") && derivedKind(gvk.GroupKind()) == "" {
				kinds = append(kinds, gvk)
			}
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	if len(kinds) == 0 {
		return nil, errors.New("asking which kinds the cluster serves: the answer names none")
	}
	return slices.Compact(kinds), nil
}

// unanswered is what remains of an error of discovery without the groups that hold derived kinds only.
func unanswered(err error) error {
	var failed *discovery.ErrGroupDiscoveryFailed
	if !errors.As(err, &failed) {
		return err
	}
	for gv := range failed.Groups {
		if derivedGroup(gv.Group) == "" {
			return err
		}
	}
	return nil
}

// derivedGroup says in words why nothing of an API group is residual; empty if something may be.
func derivedGroup(group string) string {
	switch {
	case group == v1alpha1.GroupVersion.Group:
		return "Lockstep's own; its policies belong into Git"
	case group == "metrics.k8s.io", strings.HasSuffix(group, ".metrics.k8s.io"):
		return "a measurement of the moment"
	case group == "snapshot.storage.k8s.io", group == "groupsnapshot.storage.k8s.io":
		return "a snapshot belongs to its storage; its data is not carried over"
	case group == "wgpolicyk8s.io", group == "reports.kyverno.io", group == "openreports.io", group == "aquasecurity.github.io":
		return "a report, which its controller writes anew"
	case group == "acme.cert-manager.io":
		return "a step of issuing a certificate"
	case group == "events.k8s.io":
		return "an event of the past"
	}
	return ""
}

// derivedKind says in words why no object of a kind is residual; empty if one may be.
func derivedKind(gk schema.GroupKind) string {
	if why := derivedGroup(gk.Group); why != "" {
		return why
	}
	switch gk.String() {
	case "Pod", "ReplicaSet.apps", "ControllerRevision.apps", "PodTemplate":
		return "made again by its workload"
	case "Job.batch":
		return "a deed: to replay it would be to do it again"
	case "Event":
		return "an event of the past"
	case "Lease.coordination.k8s.io":
		return "a lock of a running process"
	case "PersistentVolumeClaim":
		return "a volume: its data is saved, and restored, as such"
	case "CSIStorageCapacity.storage.k8s.io", "VerticalPodAutoscalerCheckpoint.autoscaling.k8s.io", "CiliumEndpoint.cilium.io":
		return "a measurement of the moment"
	case "CertificateRequest.cert-manager.io":
		return "a step of issuing a certificate"
	case "HelmChart.source.toolkit.fluxcd.io":
		return "made again by its HelmRelease"
	}
	return ""
}

// stage is when an object may come back.
type stage int

const (
	// before: with what else waits for no volume.
	before stage = iota
	// after: only when every claim names its volume, because pods may follow from it, and a pod that is faster than its volume
	// would get an empty one.
	after
)

// ranks orders the kinds within a stage by what they need of one another; all others come between.
var ranks = map[schema.GroupKind]int{
	object.ServiceAccount: -5,
	object.Secret:         -4,
	object.ConfigMap:      -3,
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:        -2,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}: -1,
	{Kind: "Endpoints"}: 1, // after its Service
	{Group: "discovery.k8s.io", Kind: "EndpointSlice"}: 1,
	{Kind: "ResourceQuota"}:                            2, // the others were there before it counted them, too
	{Kind: "LimitRange"}:                               2,
}

// order is the place of a kind in a replay.
func order(gk schema.GroupKind) (stage, int) {
	switch {
	case gk.Group == "apps", gk.Group == "batch", gk.Kind == "ReplicationController" && gk.Group == "":
		return after, 1
	case object.IsCustom(gk.Group):
		return after, 0 // what its controller makes of it, nobody here knows
	}
	return before, ranks[gk]
}

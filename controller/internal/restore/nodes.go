package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// observeNodes finds out whether the volume is on one node's own storage, and that node is gone. The cached nodes are asked first:
// only what they say is missing is worth a question to the API server.
func (r *Reconciler) observeNodes(ctx context.Context, v *volume) error {
	for _, reader := range []client.Reader{r.Client, r.Reader} {
		if v.stranded = false; v.pv == nil || !nodeLocal(v.pv) {
			return nil
		}
		var nodes corev1.NodeList
		if err := reader.List(ctx, &nodes); err != nil {
			return fmt.Errorf("listing nodes: %w", err)
		}
		if v.stranded = !slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { return reaches(&n, v.pv) }); !v.stranded {
			return nil
		}
	}
	return nil
}

// nodeLocal says that each way to the volume names nodes. A zone without nodes is another matter: it may get some again.
func nodeLocal(pv *corev1.PersistentVolume) bool {
	all := terms(pv)
	return len(all) > 0 && !slices.ContainsFunc(all, func(t corev1.NodeSelectorTerm) bool {
		return len(t.MatchFields) == 0 && !slices.ContainsFunc(t.MatchExpressions, namesNode)
	})
}

// namesNode knows the label of Kubernetes, and those of drivers by their ending, as topology.topolvm.io/node and openebs.io/nodename.
func namesNode(r corev1.NodeSelectorRequirement) bool {
	_, last, _ := strings.Cut(r.Key, "/")
	return r.Operator == corev1.NodeSelectorOpIn && (last == "hostname" || last == "node" || last == "nodename")
}

// reaches says that nothing of what a volume demands of a node's name and labels speaks against the node. What it does not understand
// does not.
func reaches(n *corev1.Node, pv *corev1.PersistentVolume) bool {
	return slices.ContainsFunc(terms(pv), func(t corev1.NodeSelectorTerm) bool {
		for _, f := range t.MatchFields {
			if f.Key == "metadata.name" && f.Operator == corev1.NodeSelectorOpIn && !slices.Contains(f.Values, n.Name) {
				return false
			}
		}
		for _, e := range t.MatchExpressions {
			if e.Operator == corev1.NodeSelectorOpIn && !slices.Contains(e.Values, n.Labels[e.Key]) {
				return false
			}
		}
		return true
	})
}

func terms(pv *corev1.PersistentVolume) []corev1.NodeSelectorTerm {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	return pv.Spec.NodeAffinity.Required.NodeSelectorTerms
}

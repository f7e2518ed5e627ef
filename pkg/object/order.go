package object

import (
	"cmp"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Order is the place among the objects of a commit that an object's author declared, for Argo CD or for Helm. The zero value
// is that of an object which declares nothing.
type Order struct {
	// Phase is -1 for what comes before a deploy, 1 for what comes after it.
	Phase int
	// Wave is the sync wave, or the weight of a hook.
	Wave int
}

// Compare orders by phase, then by wave.
func (o Order) Compare(other Order) int {
	return cmp.Or(cmp.Compare(o.Phase, other.Phase), cmp.Compare(o.Wave, other.Wave))
}

// OrderOf reads the order that an object declares. What is no number counts as 0, as it does for Argo CD.
func OrderOf(u *unstructured.Unstructured) Order {
	annotations := u.GetAnnotations()
	wave := annotations["argocd.argoproj.io/sync-wave"]
	if wave == "" {
		wave = annotations["helm.sh/hook-weight"]
	}
	number, err := strconv.Atoi(wave)
	if err != nil {
		number = 0
	}
	return Order{Phase: phase(hooksOf(u)), Wave: number}
}

func phase(hooks []string) int {
	for _, hook := range hooks {
		switch hook {
		case "PreSync", "pre-install", "pre-upgrade", "pre-rollback":
			return -1
		case "PostSync", "post-install", "post-upgrade", "post-rollback":
			return 1
		}
	}
	return 0
}

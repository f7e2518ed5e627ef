package coverage

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Facts are what is known from elsewhere than Git; all of it is optional.
type Facts struct {
	// Unstable are what a second rendering of head gave otherwise than the first.
	Unstable []Unstable
	// Live is what a cluster has; nil if none was asked.
	Live *Live
	// Points say, for each policy of head that was looked up in a vault, what a restore of head would begin from; nil if none was asked.
	Points []PointFacts
}

// Unstable is an object that two renderings of one commit give differently.
type Unstable struct {
	Owner  string
	Object Object
}

// Live is what a cluster has.
type Live struct {
	Claims   []corev1.PersistentVolumeClaim
	Volumes  []corev1.PersistentVolume
	Classes  []storagev1.StorageClass
	Policies []v1alpha1.ProtectionPolicy
	// Mounted are the claims that a pod or workload of the cluster names.
	Mounted map[object.Name]bool
	// Kinds are those that the API server serves; empty if that is not known.
	Kinds []schema.GroupKind
	// Missing says in words what could not be listed.
	Missing []string
}

// of says whether the answer is about a policy.
func (f PointFacts) of(p *policy) bool {
	return f.Policy.Namespace == p.GetNamespace() && f.Policy.Name == p.GetName() && (f.Owner == "" || f.Owner == p.Owner)
}

// PointFacts is what a vault answers when it is asked from which point a policy's application could be restored at the commit today.
type PointFacts struct {
	// Policy is the application's name in the vault.
	Policy object.Name `json:"policy"`
	// Owner is the ID of what deploys the policy; empty if that is all the same.
	Owner string `json:"owner,omitempty"`
	Vault string `json:"vault"`
	// Found is "found", "absent" or "unknown".
	Found string `json:"found"`
	// ID, Taken and Match (how the point fits the commit: Exact, SameTree, …) are of the point that was found.
	ID    string    `json:"id,omitempty"`
	Taken time.Time `json:"taken,omitzero"`
	Match string    `json:"match,omitempty"`
	// Why explains an answer that is not "found".
	Why string `json:"why,omitempty"`
}

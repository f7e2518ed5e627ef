package plan

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// Objective is the RTO that the application's policy promises, as the commit has it: the one place where it can be read before
// there is a cluster. It is 0 if the commit has no such policy, or the policy promises nothing.
func (p *Plan) Objective() time.Duration {
	name, err := object.ParseName(p.Application)
	if err != nil {
		return 0
	}
	var found time.Duration
	for _, o := range p.Base {
		if o.Group != v1alpha1.GroupVersion.Group || o.Kind != "ProtectionPolicy" || o.Name != name.Name || o.Manifest == nil {
			continue
		}
		text, _, _ := unstructured.NestedString(o.Manifest.Object, "spec", "objectives", "rto")
		promised, err := time.ParseDuration(text)
		if err != nil || promised <= 0 {
			continue // an objective that does not read is refused when the policy is applied
		}
		found = promised
		if o.Namespace == name.Namespace {
			return promised
		}
	}
	return found
}

// textObjective says what was promised.
func (p *Plan) textObjective() string {
	promised := p.Objective()
	if promised == 0 {
		return ""
	}
	return fmt.Sprintf("  promised    to be back within %s\n", spelling.Duration(promised))
}

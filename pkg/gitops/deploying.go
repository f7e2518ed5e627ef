package gitops

import (
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Deploying is what an engine deploys where an object came from, also while it has not ended, or has failed; or what runs of it.
type Deploying struct {
	// By names the engine's object that deployed the object.
	By object.Key
	// Revision has no Tree: engines do not say it. Its Commit is empty where the engine does not name one; Why says in words why.
	Revision v1alpha1.Revision
	Why      string
	// Mixed says, of what runs, that it is of no one commit: a deploy has begun, and has not come to its end. Why names it.
	Mixed bool
	// Secret holds the credentials of the repository, under the keys of Flux. It is empty where the engine names none that can be
	// read so.
	Secret object.Name
}

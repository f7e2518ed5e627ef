// Package ruler finds out which GitOps engine rules a path of a repository in a cluster, and drives it.
package ruler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/argocd"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Driver drives an engine; nil for Direct, which nothing has to be done to.
func Driver(c gitops.Cluster, engine v1alpha1.Engine) gitops.Driver {
	switch engine {
	case v1alpha1.EngineFlux:
		return flux.Flux{Cluster: c}
	case v1alpha1.EngineArgoCD:
		return argocd.Argo{Cluster: c}
	}
	return nil
}

// Builds say how a chosen engine builds the target; none where it builds the path as it is.
func Builds(ctx context.Context, c gitops.Cluster, engine v1alpha1.Engine, objects []v1alpha1.EngineObject, target gitops.Target) ([]gitops.Build, error) {
	driver := Driver(c, engine)
	if driver == nil || len(objects) == 0 {
		return nil, nil
	}
	builds, err := driver.Builds(ctx, objects, target)
	if err != nil {
		return nil, fmt.Errorf("finding out how %s builds the path: %w", engine, err)
	}
	return builds, nil
}

// managed are the engines that are not Lockstep.
func managed() []v1alpha1.Engine {
	return []v1alpha1.Engine{v1alpha1.EngineFlux, v1alpha1.EngineArgoCD}
}

// Choose says which engine is to apply the target, with the reasons against it. Wanted is what the Restore asks for.
func Choose(ctx context.Context, c gitops.Cluster, wanted v1alpha1.Engine, target gitops.Target) (gitops.Ruling, error) {
	if target.Apart {
		chosen := gitops.Ruling{Engine: v1alpha1.EngineDirect, Message: "into other namespaces, so that what an engine deploys is left alone"}
		if wanted == v1alpha1.EngineFlux || wanted == v1alpha1.EngineArgoCD {
			chosen.Refusals = []string{fmt.Sprintf("%s deploys into the commit's own namespaces: restore into others with engine Direct", wanted)}
		}
		return chosen, nil
	}
	var ruling []gitops.Ruling
	for _, engine := range managed() {
		found, err := Driver(c, engine).Find(ctx, target)
		if err != nil {
			return gitops.Ruling{}, fmt.Errorf("finding out whether %s deploys the path: %w", engine, err)
		}
		if found != nil {
			ruling = append(ruling, *found)
		}
	}
	if target.Part {
		if wanted == v1alpha1.EngineFlux || wanted == v1alpha1.EngineArgoCD {
			return gitops.Ruling{Engine: wanted, Refusals: []string{fmt.Sprintf(
				"%s deploys a path as a whole: bring single workloads, or other storage classes, with engine Direct", wanted)}}, nil
		}
		wanted = v1alpha1.EngineDirect
	}
	switch wanted {
	case v1alpha1.EngineFlux, v1alpha1.EngineArgoCD:
		return only(wanted, ruling, target), nil
	case v1alpha1.EngineDirect:
		return direct(ruling), nil
	}
	switch len(ruling) {
	case 0:
		return gitops.Ruling{Engine: v1alpha1.EngineDirect, Message: "neither Flux nor Argo CD deploys the path in this cluster"}, nil
	case 1:
		return ruling[0], nil
	}
	return gitops.Ruling{Engine: v1alpha1.EngineAuto, Refusals: []string{fmt.Sprintf(
		"both Flux and Argo CD deploy path %s of %s (%s; %s): remove one of them, or name the one to use as the engine and stop the other",
		target.Path, target.Repository, ruling[0].Message, ruling[1].Message)}}, nil
}

func only(wanted v1alpha1.Engine, ruling []gitops.Ruling, target gitops.Target) gitops.Ruling {
	chosen := gitops.Ruling{Engine: wanted, Refusals: []string{fmt.Sprintf(
		"engine %s is asked for, and nothing of it deploys path %s of %s to this cluster: make its objects first, or use engine Auto",
		wanted, target.Path, target.Repository)}}
	for _, r := range ruling {
		if r.Engine == wanted {
			chosen = r
		}
	}
	for _, r := range ruling {
		if r.Engine != wanted && r.Active {
			chosen.Refusals = append(chosen.Refusals, fmt.Sprintf("%s deploys the path, too (%s): stop it first", r.Engine, r.Message))
		}
	}
	return chosen
}

// direct refuses to work beside an engine that would undo what is applied, or apply what waits.
func direct(ruling []gitops.Ruling) gitops.Ruling {
	chosen := gitops.Ruling{Engine: v1alpha1.EngineDirect, Message: "engine Direct, or only a part of the commit, is asked for"}
	for _, r := range ruling {
		if r.Active {
			chosen.Refusals = append(chosen.Refusals, fmt.Sprintf("Lockstep is to apply the commit itself, and %s deploys the path (%s): suspend it first, or let engine %s bring "+
				"back the whole commit", r.Engine, r.Message, r.Engine))
		}
	}
	return chosen
}

// Holding is something that a restore holds or has pinned.
type Holding struct {
	Engine v1alpha1.Engine
	Object object.Key
	// Restore is the name of the Restore that owns the hold, UID its UID.
	Restore object.Name
	UID     string
	// Gone says that there is no such Restore any more: nobody gives back what it holds, unless Undo is called.
	Gone bool
}

func (h Holding) String() string {
	text := fmt.Sprintf("%s is held by restore %s", h.Object, h.Restore)
	if h.Gone {
		text += fmt.Sprintf(", which is gone: run lockstep restore release %s -n %s", h.Restore.Name, h.Restore.Namespace)
	}
	return text
}

// Holdings are all that restores hold in the cluster, sorted.
func Holdings(ctx context.Context, c gitops.Cluster) ([]Holding, error) {
	var restores v1alpha1.RestoreList
	if err := c.Reader.List(ctx, &restores); err != nil {
		return nil, fmt.Errorf("listing restores: %w", err)
	}
	alive := map[string]bool{}
	for i := range restores.Items {
		alive[string(restores.Items[i].UID)] = true
	}
	var out []Holding
	for engine, kinds := range map[v1alpha1.Engine][]schema.GroupKind{v1alpha1.EngineFlux: flux.Kinds(), v1alpha1.EngineArgoCD: argocd.Kinds()} {
		for _, kind := range kinds {
			found, err := c.AllMarked(ctx, kind)
			if err != nil {
				return nil, err
			}
			for i := range found {
				uid := found[i].GetLabels()[v1alpha1.LabelRestore]
				restore, _ := object.ParseName(found[i].GetAnnotations()[v1alpha1.AnnotationHeldBy])
				out = append(out, Holding{Engine: engine, Object: object.KeyOf(&found[i]), Restore: restore, UID: uid, Gone: !alive[uid]})
			}
		}
	}
	slices.SortFunc(out, func(a, b Holding) int { return a.Object.Compare(b.Object) })
	return out, nil
}

// Undo gives back what a Restore holds of any engine, also when the Restore is gone. What it says in words is still waited for; it
// is to be called again until that is empty.
func Undo(ctx context.Context, c gitops.Cluster, uid string, now time.Time) (waits string, err error) {
	var all []string
	for _, engine := range managed() {
		waits, err := Driver(c, engine).Undo(ctx, uid, now)
		if err != nil {
			return "", fmt.Errorf("giving back what is held of %s: %w", engine, err)
		}
		if waits != "" {
			all = append(all, waits)
		}
	}
	return strings.Join(all, "; "), nil
}

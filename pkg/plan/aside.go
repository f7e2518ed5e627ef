package plan

import (
	"fmt"
	"io"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// SetAside is a volume that is kept while its claim is replaced.
type SetAside struct {
	// Volume is the PersistentVolume, ClaimUID the UID of the claim that has it.
	Volume   string    `json:"volume"`
	ClaimUID types.UID `json:"claimUID"`
}

// Stop is a workload that is stopped for claims to be replaced.
type Stop struct {
	object.Key
	// Replicas is how many it has now; a CronJob has none, and is suspended.
	Replicas int32 `json:"replicas,omitempty"`
	// Autoscaler is the HorizontalPodAutoscaler that scales it. It rests while there are no replicas.
	Autoscaler string `json:"autoscaler,omitempty"`
	// Stays says that the commit does not have the workload, so that nothing starts it again.
	Stays bool `json:"stays,omitempty"`
}

// Aside is what was decided to be set aside and stopped.
type Aside struct {
	Claims map[object.Name]SetAside
	Stops  []Stop
}

// Consumer is something in the cluster that mounts claims, or makes what does.
type Consumer struct {
	object.Key
	// Claims are those that it mounts, or that its pods would mount.
	Claims []object.Name
	// By is what controls it; zero if nothing does.
	By object.Key
	// Replicas is how many pods a Deployment, ReplicaSet or StatefulSet is to have.
	Replicas int32
	// ScaledBy names the restore point that has scaled it to zero and will scale it back; empty if none has.
	ScaledBy string
	// Suspended says that a CronJob or Job is to start nothing.
	Suspended bool
	// Autoscaler is what scales it, if anything does.
	Autoscaler string
	// Deletes are the claims that a StatefulSet deletes when it is scaled to zero.
	Deletes []object.Name
}

// Kinds of consumers.
var (
	deployment  = appsv1.SchemeGroupVersion.WithKind("Deployment").GroupKind()
	statefulSet = appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind()
	replicaSet  = appsv1.SchemeGroupVersion.WithKind("ReplicaSet").GroupKind()
	cronJob     = batchv1.SchemeGroupVersion.WithKind("CronJob").GroupKind()
	job         = batchv1.SchemeGroupVersion.WithKind("Job").GroupKind()
)

// setAside is the volume of a claim that is to be replaced: what was decided before, else whatever the claim is bound to.
func (b *builder) setAside(name object.Name) *SetAside {
	if b.in.Earlier != nil {
		if known, ok := b.in.Earlier.Claims[name]; ok {
			return &known
		}
		return nil
	}
	fact, exists := b.in.Facts.Claims[name]
	mine := b.in.Facts.RestoreUID != "" && fact.RestoreUID == b.in.Facts.RestoreUID
	if !b.in.SetAside || !exists || mine || fact.Deleting || fact.Phase != corev1.ClaimBound {
		return nil
	}
	return &SetAside{Volume: fact.Spec.VolumeName, ClaimUID: fact.UID}
}

// stops finds the workloads that mount what is set aside, and refuses those that cannot be stopped and started again.
func (b *builder) stops() error {
	if b.in.Earlier != nil {
		b.plan.Stops = b.in.Earlier.Stops
		return nil
	}
	stops := map[object.Key]Stop{}
	refused := map[string]bool{}
	refusef := func(format string, args ...any) { refused[fmt.Sprintf(format, args...)] = true }
	for _, c := range b.in.Facts.Consumers {
		claim := b.replaced(c)
		if claim == nil {
			continue
		}
		root := c.Root(b.in.Facts.Consumers)
		switch kind := root.GroupKind(); {
		case root.ScaledBy != "":
			refusef("%s mounts claim %s and is scaled to zero by restore point %s, which will scale it back; wait for that", root.Key, claim, root.ScaledBy)
		case !c.Active():
		case root.By != object.Key{}:
			refusef("%s mounts claim %s and is made by %s, which would start it again; stop that first", c.Key, claim, root.By)
		case root.Active() && b.lost(root) != nil:
			refusef("%s deletes claim %s when it is stopped, and the point holds no data of that claim; set its persistentVolumeClaimRetentionPolicy.whenScaled "+
				"to Retain first, where it is deployed from", root.Key, b.lost(root))
		case kind == deployment || kind == statefulSet || kind == cronJob:
			if root.Active() {
				stops[root.Key] = Stop{Key: root.Key, Replicas: root.Replicas, Autoscaler: root.Autoscaler, Stays: !b.hasWorkload(root.Key)}
			}
		case kind == job:
			refusef("%s mounts claim %s and is not complete; wait for it, or delete it", root.Key, claim)
		default:
			refusef("%s mounts claim %s, and only Deployments, StatefulSets and CronJobs can be stopped and started again; delete it", root.Key, claim)
		}
	}
	b.plan.Stops = slices.SortedFunc(maps.Values(stops), func(x, y Stop) int { return x.Compare(y.Key) })
	b.plan.Refusals = append(b.plan.Refusals, slices.Sorted(maps.Keys(refused))...)
	return nil
}

// lost is the first claim that goes when a consumer is stopped, and is not kept; nil if none does.
func (b *builder) lost(c Consumer) *object.Name {
	for _, name := range c.Deletes {
		if known := b.plan.Claim(name); known == nil || known.SetAside == nil {
			return &name
		}
	}
	return nil
}

// replaced is the first claim that is replaced of those that a consumer mounts; nil if none is.
func (b *builder) replaced(c Consumer) *object.Name {
	for _, name := range c.Claims {
		if known := b.plan.Claim(name); known != nil && known.SetAside != nil {
			return &name
		}
	}
	return nil
}

// hasWorkload says that the commit has the workload.
func (b *builder) hasWorkload(key object.Key) bool {
	return slices.ContainsFunc(b.plan.Workloads, func(l Workload) bool { return l.Key == key })
}

// Root follows a consumer to the one of all that its pods come from, as far as they are known.
func (c Consumer) Root(all []Consumer) Consumer {
	for {
		i := slices.IndexFunc(all, func(other Consumer) bool { return other.Key == c.By })
		if i < 0 {
			return c
		}
		c = all[i]
	}
}

// Active says that a consumer has pods, or may make some.
func (c Consumer) Active() bool {
	switch c.GroupKind() {
	case deployment, statefulSet, replicaSet:
		return c.Replicas > 0
	}
	return !c.Suspended
}

// text says what is done to a workload.
func (s Stop) text() string {
	text := "is suspended"
	if s.GroupKind() != cronJob {
		text = fmt.Sprintf("is scaled from %s to none", count(int64(s.Replicas), "replica"))
	}
	if s.Autoscaler != "" {
		text += "; " + s.Autoscaler + " rests until then"
	}
	if s.Stays {
		text += "; it stays so, because the commit does not have it"
	}
	return text
}

// textAside says what is stopped and what is kept.
func (p *Plan) textAside(out io.Writer) {
	aside := slices.DeleteFunc(slices.Clone(p.Claims), func(c Claim) bool { return c.SetAside == nil })
	if len(aside) == 0 {
		return
	}
	fmt.Fprintf(out, "\nSet aside when every volume is filled and verified; until then everything runs on\n")
	for _, s := range p.Stops {
		fmt.Fprintf(out, "  %s %s\n", s.Key, s.text())
	}
	for _, c := range aside {
		fmt.Fprintf(out, "  claim %s is replaced; its volume %s is kept with its data\n", c.Name, c.SetAside.Volume)
	}
}

// Package plan decides what a restore does: it takes a chosen point, the rendered objects of a commit and facts about
// the cluster, and makes one value that a dry run prints and the controller carries out. It does no input or output.
package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// Input is everything that a plan depends on.
type Input struct {
	// Choice is the point and why it was chosen.
	Choice match.Choice
	// Revision is the commit to replay.
	Revision v1alpha1.Revision
	// Objects are what the commit renders to.
	Objects []*unstructured.Unstructured
	// Residual are the objects that Git does not hold and the point brings back.
	Residual []object.Key
	// Leading is how many of them have text that may still lead into a namespace by its old name.
	Leading int
	// Selection is set where only volumes come back; the point of Choice is then the selection's, and there is no commit.
	Selection *Selection
	// Part is set where only single workloads come back; Objects, Residual and the point of Choice are then those of the part.
	Part *Part
	// Mapped says under which names Choice, Objects and Residual are; its own record and objects are theirs.
	Mapped Mapped
	Facts  Facts
	// SetAside allows that bound claims are replaced, and their volumes kept.
	SetAside bool
	// Earlier is what an earlier planning of the same restore has decided to set aside; nil if there was none.
	Earlier *Aside
}

// Facts are what is known of the target cluster. A nil map means not known: nothing is refused for its sake.
type Facts struct {
	// Claims holds the existing claims among those that the plan concerns.
	Claims map[object.Name]ClaimFact
	// StorageClasses holds every class of the cluster.
	StorageClasses map[string]ClassFact
	// Namespaces holds the namespaces among those that the plan concerns which exist, and are not being deleted.
	Namespaces map[string]bool
	// Kinds holds the served kinds among those of the objects.
	Kinds map[schema.GroupKind]KindFact

	// Engine is what is to apply the commit; nil if that is not known.
	Engine *Engine
	// Consumers are what mounts claims, or makes pods that do, in the namespaces of the claims, and what made those. They are asked
	// for only where claims may be set aside.
	Consumers []Consumer
	// Existing holds those of the commit's objects that exist, of Mapped.Apart.
	Existing map[object.Key]bool

	// RestoreUID is the UID of the Restore that is being planned, empty for a dry run.
	RestoreUID string
	// RestoreNamespace is where the Restore is; only in lockstep-system may it reach other namespaces.
	RestoreNamespace string
}

// ClaimFact is an existing claim.
type ClaimFact struct {
	UID   types.UID
	Phase corev1.PersistentVolumeClaimPhase
	// Deleting says that the claim is being deleted.
	Deleting bool
	// RestoreUID is the UID of the Restore that reserved the claim, Restore its name; without a name it is gone.
	RestoreUID string
	Restore    object.Name
	// Spec is the claim's. Of an existing claim the class cannot be changed any more, nor the request of one that is pending.
	Spec corev1.PersistentVolumeClaimSpec
}

// class is empty if the claim names none.
func (c ClaimFact) class() string {
	if c.Spec.StorageClassName == nil {
		return ""
	}
	return *c.Spec.StorageClassName
}

func (c ClaimFact) request() int64 { return c.Spec.Resources.Requests.Storage().Value() }

// ClassFact is a StorageClass.
type ClassFact struct {
	Provisioner          string
	WaitForFirstConsumer bool
	Default              bool
}

// KindFact is a kind that the cluster serves.
type KindFact struct {
	Namespaced bool
}

// Plan is what a restore does.
type Plan struct {
	// Application is "<namespace>/<policy>" of the point.
	Application string `json:"application"`
	Point       Point  `json:"point"`
	// Revision is the commit to replay; empty where only volumes come back.
	Revision v1alpha1.Revision `json:"revision,omitzero"`
	// Engine is what applies the commit; nil if that is not known.
	Engine *Engine `json:"engine,omitempty"`
	// Mapping is under which other names it is restored; nil if under its own.
	Mapping *Mapping `json:"mapping,omitempty"`
	// Definitions are namespaces and definitions of kinds.
	Definitions []Object `json:"definitions"`
	// Base is everything that is neither a definition, nor a workload, nor a claim with data.
	Base []Object `json:"base"`
	// Residual counts what Git does not hold and the point brings back where it is absent.
	Residual Residual `json:"residual"`
	// Claims are filled from the point before any pod may use them, in an order that only the point decides.
	Claims []Claim `json:"claims"`
	// Groups are the sets of claims that one pod mounts, and so must be reachable from one node.
	Groups []Group `json:"groups"`
	// Stops are the workloads that are stopped when every volume is filled, so that claims can be replaced.
	Stops []Stop `json:"stops,omitempty"`
	// Notes are claims that the commit uses and the point does not fill.
	Notes []Note `json:"notes,omitempty"`
	// Workloads are released when what they need is there and the claims they wait for are reserved.
	Workloads []Workload `json:"workloads"`
	// Hooks are objects of the commit that do not come with a deploy, and why.
	Hooks []ObjectNote `json:"hooks,omitempty"`
	// Left counts the objects of the commit that a restore of single workloads leaves alone.
	Left int `json:"left,omitempty"`
	// Refusals say why the restore must not begin; what they ask for is the way on. Empty means that it may.
	Refusals []string `json:"refusals,omitempty"`
	// NotChecked says what might speak against the restore and could not be found out, and why.
	NotChecked []string `json:"notChecked,omitempty"`
	// defaultClass is the class of claims that name none.
	defaultClass string
}

// Residual counts objects that Git does not hold. Their names are not in a plan: it may be read by more people than the vault.
type Residual struct {
	Secrets int `json:"secrets"`
	// Objects are those of all other kinds.
	Objects int `json:"objects"`
	// Leading counts those whose text may still lead into a namespace by the name that the mapping takes from it.
	Leading int `json:"leading,omitempty"`
}

// Engine is what applies a commit.
type Engine struct {
	Name v1alpha1.Engine `json:"name"`
	// Reason says in words why this one.
	Reason string `json:"reason,omitempty"`
	// Objects are those of the engine that are pinned, held and released.
	Objects []v1alpha1.EngineObject `json:"objects,omitempty"`
	// Refusals say why it cannot be used as it stands; they are among the plan's.
	Refusals []string `json:"-"`
}

// Manages says that an engine other than Lockstep brings the objects of the commit.
func (e *Engine) Manages() bool {
	return e != nil && (e.Name == v1alpha1.EngineFlux || e.Name == v1alpha1.EngineArgoCD)
}

// Point is the chosen point.
type Point struct {
	ID     string    `json:"id"`
	Taken  time.Time `json:"taken"`
	Commit string    `json:"commit"`
	Ref    string    `json:"ref,omitempty"`
	Match  string    `json:"match"`
	Reason string    `json:"reason"`
}

// Object is an object of the commit. As JSON it is its identity only: a manifest may hold secrets.
type Object struct {
	object.Key
	Manifest *unstructured.Unstructured `json:"-"`
	// Needs are the objects that this restore brings and that must be there before this one is applied. Definitions must be
	// usable, too.
	Needs []object.Key `json:"needs,omitempty"`
}

// Claim is a claim that is filled from the point.
type Claim struct {
	Name object.Name `json:"claim"`
	// From is the claim as which the point holds the volume, if that is another one.
	From object.Name `json:"from,omitzero"`
	// Index is the claim's place among the point's volumes; it names the claim's temporary objects.
	Index int `json:"index"`
	// Origin says where the claim's definition comes from.
	Origin Origin `json:"origin"`
	// Target is the claim to create, without a volume.
	Target *corev1.PersistentVolumeClaim `json:"-"`
	// Snapshot, Bytes, Files and the roots are those of the saved volume.
	Snapshot    string `json:"snapshot"`
	Bytes       int64  `json:"bytes"`
	Files       int64  `json:"files"`
	ContentRoot string `json:"contentRoot"`
	MetaRoot    string `json:"metaRoot"`
	// StorageClass provisions the volume; empty if not known.
	StorageClass         string `json:"storageClass,omitempty"`
	WaitForFirstConsumer bool   `json:"waitForFirstConsumer,omitempty"`
	// Block says that the saved volume is a block device and not a file system.
	Block bool `json:"block,omitempty"`
	// Size is the number of bytes of the volume: what Git asks for, or what the saved one had if that is more.
	Size int64 `json:"size"`
	// Empty says that the volume gets no data, and no mover.
	Empty bool `json:"empty,omitempty"`
	// Group is the index of the claim's Group.
	Group int `json:"group"`
	// SetAside is the volume that the claim has now, and which is kept; nil if the claim is not in the way.
	SetAside *SetAside `json:"setAside,omitempty"`
}

// Roots is the digest that the filled volume must have, as AnnotationHydrated holds it.
func (c Claim) Roots() string { return c.ContentRoot + "/" + c.MetaRoot }

// Origin says where a claim's definition comes from.
type Origin string

// Origins of a claim.
const (
	// OriginGit: the commit renders the claim.
	OriginGit Origin = "Git"
	// OriginTemplate: a StatefulSet of the commit has a template for the claim.
	OriginTemplate Origin = "Template"
	// OriginPoint: the commit does not know the claim; it is made as the point recorded it.
	OriginPoint Origin = "Point"
)

// Group is the claims of one pod, or of several that share a claim.
type Group struct {
	// Index is the smallest index of the group's claims.
	Index int `json:"index"`
	// Consumers are the workloads that mount the claims.
	Consumers []object.Key  `json:"consumers,omitempty"`
	Claims    []object.Name `json:"claims"`
	// Where the consumers' pods may run, for the pod that fills the claims.
	NodeSelector map[string]string    `json:"-"`
	NodeAffinity *corev1.NodeAffinity `json:"-"`
	Tolerations  []corev1.Toleration  `json:"-"`
}

// Note says what becomes of a claim that the point does not fill.
type Note struct {
	Claim  object.Name `json:"claim"`
	Reason string      `json:"reason"`
}

// Workload is something that makes pods.
type Workload struct {
	Object
	// WaitsFor are the claims that must be reserved before the workload is created.
	WaitsFor []object.Name `json:"waitsFor,omitempty"`
	// After are workloads that must be healthy before this one is created, because their authors declared so.
	After []object.Key `json:"after,omitempty"`
}

// ReplaysCommit says that a commit comes back, and not volumes alone.
func (p *Plan) ReplaysCommit() bool { return p.Revision.Commit != "" }

// Claim returns the plan's claim of the name; nil if the point does not fill it.
func (p *Plan) Claim(name object.Name) *Claim {
	i := slices.IndexFunc(p.Claims, func(c Claim) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Claims[i]
}

// New makes the plan. An error means that an object of the commit has not the shape of its kind; whatever speaks against
// the restore is in Refusals.
func New(in Input) (*Plan, error) {
	objects, hooks, err := WithoutHooks(in.Objects)
	if err != nil {
		return nil, err
	}
	in.Objects = objects
	set, err := object.NewSet(in.Objects)
	if err != nil {
		return nil, err
	}
	record := in.Choice.Record
	p := &Plan{
		Application: record.Application,
		Point: Point{
			ID: record.ID, Taken: record.Taken.UTC(), Commit: record.Revision.Commit, Ref: record.Revision.Ref,
			Match: in.Choice.Match, Reason: in.Choice.Reason,
		},
		Revision: in.Revision, Engine: in.Facts.Engine, Hooks: hooks,
	}
	for _, key := range in.Residual {
		if key.GroupKind() == object.Secret {
			p.Residual.Secrets++
		} else {
			p.Residual.Objects++
		}
	}
	p.Residual.Leading = in.Leading
	if in.Part != nil {
		p.Left = in.Part.Left
		p.Refusals = slices.Clone(in.Part.faults)
	}
	b := builder{in: in, set: set, plan: p}
	p.defaultClass = b.defaultClass()
	for _, step := range []func() error{b.mapping, b.readSets, b.claims, b.groups, b.objects, b.notes, b.stops, b.refuse} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// WithoutHooks parts the objects that a deploy brings from those that it does not, and says why; these are in the order of their names. An error is an
// object.ErrMalformed.
func WithoutHooks(objects []*unstructured.Unstructured) (brought []*unstructured.Unstructured, hooks []ObjectNote, err error) {
	for _, u := range objects {
		why, err := object.LeftOut(u)
		if err != nil {
			return nil, nil, err
		}
		if why == "" {
			brought = append(brought, u)
		} else {
			hooks = append(hooks, ObjectNote{object.KeyOf(u), why})
		}
	}
	slices.SortFunc(hooks, func(a, b ObjectNote) int { return a.Object.Compare(b.Object) })
	return brought, hooks, nil
}

func sortedVolumes(r point.Record) []point.Volume {
	volumes := slices.Clone(r.Volumes)
	slices.SortFunc(volumes, func(a, b point.Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Claim, b.Claim))
	})
	return volumes
}

func (b *builder) refusef(format string, args ...any) {
	b.plan.Refusals = append(b.plan.Refusals, fmt.Sprintf(format, args...))
}

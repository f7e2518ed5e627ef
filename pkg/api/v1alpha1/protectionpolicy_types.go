package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProtectionPolicySpec says which volumes of an application are saved, when, where and for how long.
type ProtectionPolicySpec struct {
	// Vaults names the Vaults that hold the points. A point is Ready when it is durable in the first; each further one gets a verified
	// copy of it afterwards.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	// +listType=set
	Vaults []string `json:"vaults"`

	// Volumes selects claims of the policy's namespace; by default every claim.
	// +optional
	Volumes VolumeSelection `json:"volumes,omitempty"`

	// Quiesce holds the application still while its snapshots are taken. Hooks run in this order, and are undone in the reverse one.
	// +optional
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	Quiesce []QuiesceHook `json:"quiesce,omitempty"`

	// ScaleToZero takes the workloads that mount the claims away while the snapshots are taken.
	// +optional
	ScaleToZero *ScaleToZero `json:"scaleToZero,omitempty"`

	// Snapshots says how the snapshots are taken. With Each, every volume is snapshotted by itself, moments apart. With Group, one
	// VolumeGroupSnapshot has all of them at one moment; where the cluster or the storage has no such, the point fails.
	// +optional
	// +kubebuilder:default=Each
	Snapshots Snapshots `json:"snapshots,omitempty"`

	// Consistency is the least that a point may have. With Crash, a claim whose storage has no snapshots fails the point. With Fuzzy, a
	// claim on nfs, local or hostPath storage is read while its application uses it, and the point says so; every other claim is
	// snapshotted all the same.
	// +optional
	// +kubebuilder:default=Crash
	// +kubebuilder:validation:XValidation:rule="self != 'Application'",message="consistency must be Crash or Fuzzy"
	Consistency Consistency `json:"consistency,omitempty"`

	// Schedule is a cron line of five fields; empty means only by hand.
	// +optional
	Schedule string `json:"schedule,omitempty"`

	// TimeZone is the IANA time zone of the schedule, UTC by default.
	// +optional
	TimeZone string `json:"timeZone,omitempty"`

	// Jitter is less than how much later than scheduled a run begins, by the same amount every time, and at most half the time to
	// the next run. By default it is a tenth of that time, and at most 5m.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="jitter must not be negative"
	Jitter *metav1.Duration `json:"jitter,omitempty"`

	// StartingDeadline is how late a missed run may still begin; after it, the next one is waited for. By default a missed run is
	// always made up for.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m')",message="startingDeadline must be at least 1m: a run that has to wait a moment would be left out"
	StartingDeadline *metav1.Duration `json:"startingDeadline,omitempty"`

	// Suspend stops the schedule; points made by hand still work.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// OnDeploy asks for a point before each deploy of the application by Flux, after it, or both. Before needs the annotation
	// lockstep.dev/pre-deploy on the Kustomization, too: it is what keeps Flux from deploying until the point is complete.
	// +optional
	// +kubebuilder:default=None
	OnDeploy OnDeploy `json:"onDeploy,omitempty"`

	// Objectives are the promises that this policy is measured against.
	// +optional
	Objectives *Objectives `json:"objectives,omitempty"`

	// Retention says which points are kept; without it every point is.
	// +optional
	Retention *Retention `json:"retention,omitempty"`
}

// OnDeploy says when a deploy takes a point.
//
// +kubebuilder:validation:Enum=None;Before;After;Both
type OnDeploy string

// Values of OnDeploy.
const (
	// OnDeployNone: deploys take no points by themselves.
	OnDeployNone OnDeploy = "None"
	// OnDeployBefore: the deploy waits for a point of the commit that is running.
	OnDeployBefore OnDeploy = "Before"
	// OnDeployAfter: when a deploy has changed what is running, a point is taken of it.
	OnDeployAfter OnDeploy = "After"
	// OnDeployBoth is both.
	OnDeployBoth OnDeploy = "Both"
)

// Before reports whether a deploy is to wait for a point.
func (o OnDeploy) Before() bool { return o == OnDeployBefore || o == OnDeployBoth }

// After reports whether a point is to be taken after a deploy.
func (o OnDeploy) After() bool { return o == OnDeployAfter || o == OnDeployBoth }

// Snapshots says how the snapshots of a point are taken.
//
// +kubebuilder:validation:Enum=Each;Group
type Snapshots string

const (
	// SnapshotsEach takes one of each volume.
	SnapshotsEach Snapshots = "Each"
	// SnapshotsGroup takes one of all volumes together.
	SnapshotsGroup Snapshots = "Group"
)

// VolumeSelection selects claims.
type VolumeSelection struct {
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// Objectives are promises of recovery.
type Objectives struct {
	// RPO is the most data, as time, that may be lost.
	// +optional
	RPO *metav1.Duration `json:"rpo,omitempty"`
	// RTO is the longest a restore may take.
	// +optional
	RTO *metav1.Duration `json:"rto,omitempty"`
}

// Retention counts the points to keep.
//
// +kubebuilder:validation:XValidation:rule="self.last + self.hourly + self.daily + self.weekly + self.monthly > 0 || (has(self.tags) && size(self.tags) > 0) || has(self.ranLonger)",message="this retention keeps nothing: set at least one of last, hourly, daily, weekly, monthly, tags or ranLonger"
type Retention struct {
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Last int32 `json:"last"`
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Hourly int32 `json:"hourly"`
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Daily int32 `json:"daily"`
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Weekly int32 `json:"weekly"`
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Monthly int32 `json:"monthly"`
	// Tags are patterns; the newest point of each commit with a matching Git tag is kept.
	// +optional
	// +listType=set
	Tags []string `json:"tags,omitempty"`
	// RanLonger keeps the newest point of whatever was deployed for longer than this.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="ranLonger must be more than nothing"
	RanLonger *metav1.Duration `json:"ranLonger,omitempty"`
	// Grace is how long a point that nothing keeps is only marked before it is removed, and then how long its data stays, 24h by
	// default. Until it is over, a hold or another rule keeps the point.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="grace must be at least 1s"
	Grace *metav1.Duration `json:"grace,omitempty"`
	// AtOnce is how many points may go at once without a person's word; more than that are not removed, and none is, until
	// somebody approves it with lockstep retention approve. By default it is 20 percent, or 5 points if that is more.
	// +optional
	AtOnce *RetentionAtOnce `json:"atOnce,omitempty"`
}

// RetentionAtOnce bounds how many points may go at once: a share of those that are kept, or a number, whichever is more.
type RetentionAtOnce struct {
	// +optional
	// +kubebuilder:default=20
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent"`
	// +optional
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=0
	Points int32 `json:"points"`
}

// ProtectionPolicyStatus is what the policy protects now.
type ProtectionPolicyStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Claims are the names of the claims that the next point will hold.
	// +optional
	// +listType=set
	Claims []string `json:"claims,omitempty"`
	// LastPoint names the newest Ready RestorePoint of the policy and when its data was taken.
	// +optional
	LastPoint *PointReference `json:"lastPoint,omitempty"`
	// NextRun is when the schedule makes the next point.
	// +optional
	NextRun *metav1.Time `json:"nextRun,omitempty"`
	// LastRun is the scheduled time that was last acted upon, or the time from which on runs count again after a clock was wrong.
	// +optional
	LastRun *metav1.Time `json:"lastRun,omitempty"`
	// Retention is where the retention stands in each vault.
	// +optional
	// +listType=map
	// +listMapKey=vault
	Retention []VaultRetention `json:"retention,omitempty"`
	// LastDeploy is the last deploy after which a point was asked for, or was not needed.
	// +optional
	LastDeploy *Deploy `json:"lastDeploy,omitempty"`
}

// Deploy is what an engine of GitOps has deployed.
type Deploy struct {
	// Revision is "<branch or tag>@sha1:<full commit>", or "sha1:<full commit>".
	Revision string `json:"revision"`
	// Digest is that of the manifests that were applied, as the engine tells it. A deploy with the same digest changed nothing.
	// +optional
	Digest string `json:"digest,omitempty"`
	// Number counts the deploys that were seen, this one among them: a revision may be deployed again, and is another deploy then.
	// +optional
	Number int64 `json:"number,omitempty"`
}

// VaultRetention is where the retention stands in one vault.
type VaultRetention struct {
	Vault string `json:"vault"`
	// CheckedAt is when the points were last judged.
	// +optional
	CheckedAt *metav1.Time `json:"checkedAt,omitempty"`
	// Generation is that of the policy by which they were.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Kept points are those that a rule, a hold or a use keeps.
	Kept int32 `json:"kept"`
	// Leaving points are marked: nothing keeps them, and they are removed when their grace time is over.
	Leaving int32 `json:"leaving"`
	// Next is when the first of them may be removed.
	// +optional
	Next *metav1.Time `json:"next,omitempty"`
	// Unknown says what is not known now, because of which nothing is marked or removed.
	// +optional
	Unknown string `json:"unknown,omitempty"`
	// Refused says what would go if somebody approved it.
	// +optional
	Refused *RetentionRefusal `json:"refused,omitempty"`
	// Marks are the points that are leaving.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MaxItems=1000
	Marks []RetentionMark `json:"marks,omitempty"`
	// Level is how many points were kept, at most, in the grace time before, in thousandths. It sinks slowly.
	// +optional
	Level int64 `json:"level,omitempty"`
}

// RetentionMark remembers a point that is leaving.
type RetentionMark struct {
	// ID of the point.
	ID    string      `json:"id"`
	Since metav1.Time `json:"since"`
	// Waited is how much of the grace time has passed.
	Waited metav1.Duration `json:"waited"`
}

// RetentionRefusal is what would go at once, and does not without a person's word.
type RetentionRefusal struct {
	// Digest names exactly these points.
	Digest string `json:"digest"`
	// Count is how many they are.
	Count int32 `json:"count"`
	// Points are their IDs, the first of them if they are many.
	// +optional
	// +listType=set
	Points []string `json:"points,omitempty"`
}

// PointReference names a RestorePoint and its moment.
type PointReference struct {
	Name  string      `json:"name"`
	Taken metav1.Time `json:"taken"`
	// +optional
	Commit string `json:"commit,omitempty"`
}

// ProtectionPolicy says which volumes of an application are saved, when and for how long. It lives in Git beside the
// application.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=protect,categories=lockstep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Schedule",type=string,JSONPath=`.spec.schedule`
// +kubebuilder:printcolumn:name="Objective",type=string,JSONPath=`.status.conditions[?(@.type=="ObjectiveMet")].status`
// +kubebuilder:printcolumn:name="Last point",type=date,JSONPath=`.status.lastPoint.taken`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ProtectionPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ProtectionPolicySpec   `json:"spec"`
	Status ProtectionPolicyStatus `json:"status,omitempty"`
}

// ProtectionPolicyList is a list of ProtectionPolicies.
//
// +kubebuilder:object:root=true
type ProtectionPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ProtectionPolicy `json:"items"`
}

// GetConditions returns the status conditions.
func (p *ProtectionPolicy) GetConditions() []metav1.Condition { return p.Status.Conditions }

// SetConditions replaces the status conditions.
func (p *ProtectionPolicy) SetConditions(c []metav1.Condition) { p.Status.Conditions = c }

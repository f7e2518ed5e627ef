package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Revision is what was deployed: a commit, and the tree of one path in it. Two commits with the same tree deploy the same thing.
type Revision struct {
	// Repository is the URL, without credentials.
	Repository string `json:"repository"`
	// Ref is the branch or tag that the commit was found by.
	// +optional
	Ref string `json:"ref,omitempty"`
	// Commit is the full object name.
	Commit string `json:"commit"`
	// Path is the directory in the repository, "." for its root.
	Path string `json:"path"`
	// Tree names all that the path deploys at the commit: its Git tree hash, or another name of that form if something below the path refers
	// to files outside of it.
	Tree string `json:"tree"`
}

// Trigger says what asked for a RestorePoint.
//
// +kubebuilder:validation:Enum=Manual;Schedule;PreDeploy;PostDeploy
type Trigger string

const (
	// TriggerManual says that a person asked, or a pipeline that names no deploy.
	TriggerManual Trigger = "Manual"
	// TriggerSchedule says that the policy's schedule asked.
	TriggerSchedule Trigger = "Schedule"
	// TriggerPreDeploy says that a deploy asked which is about to begin; Before names its commit.
	TriggerPreDeploy Trigger = "PreDeploy"
	// TriggerPostDeploy says that a deploy asked which has ended.
	TriggerPostDeploy Trigger = "PostDeploy"
)

// RestorePointSpec asks for a point.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a restore point is asked for once: make a new one instead of changing it"
type RestorePointSpec struct {
	// PolicyRef names a ProtectionPolicy of the same namespace.
	PolicyRef PolicyReference `json:"policyRef"`
	// +optional
	// +kubebuilder:default=Manual
	Trigger Trigger `json:"trigger,omitempty"`
	// Before is the commit that is about to be deployed, when the point is taken ahead of a deploy. The point itself is
	// tagged with the commit that is running.
	// +optional
	// +kubebuilder:validation:Pattern=`^([0-9a-f]{40}|[0-9a-f]{64})$`
	Before string `json:"before,omitempty"`
}

// PolicyReference names a ProtectionPolicy of the same namespace.
type PolicyReference struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// RestorePointStatus projects the record in the vault, and the work until it is written.
type RestorePointStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ID names the record in the vault.
	// +optional
	ID string `json:"id,omitempty"`
	// Revision is the one that ran when the snapshots were taken.
	// +optional
	Revision *Revision `json:"revision,omitempty"`
	// StartedAt is when the work began.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// Taken is the moment of the data: the newest of its snapshots.
	// +optional
	Taken *metav1.Time `json:"taken,omitempty"`
	// Consistency is the least of the volumes', once the moment of the data is fixed.
	// +optional
	Consistency Consistency `json:"consistency,omitempty"`
	// CompletedAt is when the record was durable.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Volumes are the expected claims, fixed when the work began.
	// +optional
	// +listType=map
	// +listMapKey=claim
	Volumes []VolumeCapture `json:"volumes,omitempty"`
	// Quiesce are the containers that are held still while the snapshots are taken, fixed when the work began.
	// +optional
	// +listType=atomic
	Quiesce []Quiesced `json:"quiesce,omitempty"`
	// Group is the one snapshot of all volumes, if the policy wants one.
	// +optional
	Group *SnapshotGroup `json:"group,omitempty"`
	// ScaleToZero is what is away while the snapshots are taken, fixed when the work began.
	// +optional
	ScaleToZero *Scaling `json:"scaleToZero,omitempty"`
	// Residual counts what was captured beside the volumes.
	// +optional
	Residual *ResidualSummary `json:"residual,omitempty"`
	// Copies are the vaults that hold the point, that of the policy's first vault before the others, and those that are to hold it.
	// +optional
	// +listType=map
	// +listMapKey=vault
	Copies []PointCopy `json:"copies,omitempty"`
}

// VolumeState is where one volume of a point stands, for people; the controller derives it afresh each time.
type VolumeState string

// States of a volume of a RestorePoint.
const (
	VolumePending      VolumeState = "Pending"
	VolumeSnapshotting VolumeState = "Snapshotting"
	VolumeExposing     VolumeState = "Exposing"
	VolumeSaving       VolumeState = "Saving"
	VolumeSaved        VolumeState = "Saved"
	VolumeFailed       VolumeState = "Failed"
)

// Consistency says what a volume's data can be relied on for.
//
// +kubebuilder:validation:Enum=Application;Crash;Fuzzy
type Consistency string

const (
	// ConsistencyApplication says that every pod with the volume was held still by its own application's means while the data's moment was
	// fixed, or that there was none.
	ConsistencyApplication Consistency = "Application"
	// ConsistencyCrash says that the volume is as a power cut would have left it.
	ConsistencyCrash Consistency = "Crash"
	// ConsistencyFuzzy says that files were read while they were in use: the volume was never as it was saved.
	ConsistencyFuzzy Consistency = "Fuzzy"
)

// CaptureSource is what a volume of a point is read from.
//
// +kubebuilder:validation:Enum=Snapshot;Volume
type CaptureSource string

const (
	// SourceSnapshot is a snapshot of the volume.
	SourceSnapshot CaptureSource = "Snapshot"
	// SourceVolume is the volume itself, under a second name: its storage knows no snapshots.
	SourceVolume CaptureSource = "Volume"
)

// VolumeCapture is one expected claim of a point.
type VolumeCapture struct {
	Claim string `json:"claim"`
	// UID of the claim when the work began.
	UID string `json:"uid"`
	// +optional
	State VolumeState `json:"state,omitempty"`
	// +optional
	Capacity *resource.Quantity `json:"capacity,omitempty"`
	// +optional
	StorageClass string `json:"storageClass,omitempty"`
	// Source is what the volume is read from.
	// +optional
	Source CaptureSource `json:"source,omitempty"`
	// ScaleToZero says that what mounts the volume is scaled to zero until its moment is fixed.
	// +optional
	ScaleToZero bool `json:"scaleToZero,omitempty"`
	// Consistency is known once the moment of the data is fixed.
	// +optional
	Consistency Consistency `json:"consistency,omitempty"`
	// Taken is the creation time of the volume's snapshot; of a volume that is read itself, the moment before: its data are of then or newer.
	// +optional
	Taken *metav1.Time `json:"taken,omitempty"`
	// Snapshot is the id of the saved volume in the vault.
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// Bytes is the apparent size of all files, Stored what this save added to the vault.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// +optional
	Stored int64 `json:"stored,omitempty"`
	// +optional
	Files int64 `json:"files,omitempty"`
	// Changed are the first files and directories of a fuzzy volume that changed while they were read: the point has them as they were found
	// at last. MoreChanged counts further ones.
	// +optional
	Changed []string `json:"changed,omitempty"`
	// +optional
	MoreChanged int32 `json:"moreChanged,omitempty"`
	// Progress is the number of bytes read so far.
	// +optional
	Progress int64 `json:"progress,omitempty"`
	// Attempts is the number of movers that were started.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// ContentRoot and MetaRoot are the digests of the saved tree.
	// +optional
	ContentRoot string `json:"contentRoot,omitempty"`
	// +optional
	MetaRoot string `json:"metaRoot,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// Cleanup says which temporary object of the volume is being removed; empty when there is none left or none to remove yet.
	// +optional
	Cleanup string `json:"cleanup,omitempty"`
}

// SnapshotGroup is a VolumeGroupSnapshot: all volumes of the point are of its moment.
type SnapshotGroup struct {
	// Name of the VolumeGroupSnapshot, in the namespace of the point.
	Name string `json:"name"`
	// Class is its VolumeGroupSnapshotClass.
	Class string `json:"class"`
	// Version of the API by which it is asked for.
	Version string `json:"version"`
	// MatchLabels choose the claims.
	// +optional
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// ResidualSummary counts captured objects; their names and values are only in the vault, sealed.
type ResidualSummary struct {
	Secrets int32 `json:"secrets"`
	// Objects of all other kinds.
	// +optional
	Objects int32 `json:"objects,omitempty"`
}

// CopyState is where a point's copy in one vault stands.
type CopyState string

// States of a copy.
const (
	// CopyPending: it was not begun, or waits for a vault or a mover.
	CopyPending CopyState = "Pending"
	// CopyCopying: a mover is at it.
	CopyCopying CopyState = "Copying"
	// CopyVerified: the vault holds the point, read back and found whole at verifiedAt.
	CopyVerified CopyState = "Verified"
	// CopyFailed: the last attempt failed, and another follows.
	CopyFailed CopyState = "Failed"
	// CopyRemoved: the point was removed from one of the two vaults, by retention or by a person, and is not copied any more.
	CopyRemoved CopyState = "Removed"
)

// PointCopy is one vault that holds the point, or is to hold it.
type PointCopy struct {
	Vault string `json:"vault"`
	// +optional
	State CopyState `json:"state,omitempty"`
	// Attempts is the number of movers that were started.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// Bytes is what was copied so far, or by the attempt that succeeded: only what the vault lacked.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// Message says what is waited for, or why the last attempt failed.
	// +optional
	Message string `json:"message,omitempty"`
	// VerifiedAt is when the record and, of a copy, all that was sent, had been written and read back. Without it the vault does not hold
	// the point.
	// +optional
	VerifiedAt *metav1.Time `json:"verifiedAt,omitempty"`
	// LockedUntil is until when the vault's store refuses, to whoever asks, to delete anything that the point needs there. It is absent
	// where nothing is locked.
	// +optional
	LockedUntil *metav1.Time `json:"lockedUntil,omitempty"`
}

// RestorePoint is the data of one application at one moment, with its revision. The record in the vault is the truth;
// this object is its projection.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=point,categories=lockstep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Policy",type=string,JSONPath=`.spec.policyRef.name`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Commit",type=string,JSONPath=`.status.revision.commit`
// +kubebuilder:printcolumn:name="Ref",type=string,JSONPath=`.status.revision.ref`
// +kubebuilder:printcolumn:name="Taken",type=date,JSONPath=`.status.taken`
// +kubebuilder:printcolumn:name="Consistency",type=string,JSONPath=`.status.consistency`
// +kubebuilder:printcolumn:name="ID",type=string,JSONPath=`.status.id`,priority=1
type RestorePoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RestorePointSpec   `json:"spec"`
	Status RestorePointStatus `json:"status,omitempty"`
}

// RestorePointList is a list of RestorePoints.
//
// +kubebuilder:object:root=true
type RestorePointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RestorePoint `json:"items"`
}

// GetConditions returns the status conditions.
func (r *RestorePoint) GetConditions() []metav1.Condition { return r.Status.Conditions }

// SetConditions replaces the status conditions.
func (r *RestorePoint) SetConditions(c []metav1.Condition) { r.Status.Conditions = c }

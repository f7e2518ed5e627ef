package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VaultSpec says where data goes and which key opens it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.immutability) || has(self.s3)",message="a filesystem cannot lock files: immutability needs s3"
// +kubebuilder:validation:XValidation:rule="has(self.s3) != has(self.filesystem)",message="a vault is in exactly one place: set either s3 or filesystem"
type VaultSpec struct {
	// S3 is a bucket of an S3-compatible object store.
	// +optional
	S3 *S3Location `json:"s3,omitempty"`

	// Filesystem is a directory that is mounted in the controller's pod at this path; movers mount the same volume.
	// +optional
	Filesystem *FilesystemLocation `json:"filesystem,omitempty"`

	// KeySecretRef names a Secret in lockstep-system whose entry "identity" is the age identity that opens the vault, as
	// `lockstep vault init` writes it. There is no default key.
	KeySecretRef SecretReference `json:"keySecretRef"`

	// Immutability has the store refuse, to whoever asks, to delete what a point needs until its time is over. The bucket must have
	// Object Lock; a vault whose store cannot do it is not Ready.
	// +optional
	Immutability *Immutability `json:"immutability,omitempty"`

	// PruneSchedule is a cron line of five fields, in UTC, that says when what no point needs any more is deleted, once a day by
	// default.
	// +optional
	// +kubebuilder:default="23 3 * * *"
	PruneSchedule string `json:"pruneSchedule,omitempty"`

	// SuspendPrune keeps everything in the store: points are removed as their retention says, and their data stays.
	// +optional
	SuspendPrune bool `json:"suspendPrune,omitempty"`
}

// Immutability is how strictly, and for how long, the store keeps what a point needs.
type Immutability struct {
	// Mode is Governance, where accounts with the permission s3:BypassGovernanceRetention can still delete, which Lockstep never does,
	// or Compliance, where nobody can, the account's owner included, until the time is over. Compliance cannot be undone.
	Mode LockMode `json:"mode"`

	// Retention is for how long each point is locked from the moment it is recorded, as 720h. What later points reuse is locked anew.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1h') && duration(self) <= duration('876000h')",message="retention is from 1h to 876000h (100 years)"
	Retention metav1.Duration `json:"retention"`
}

// LockMode says who can end a lock early.
//
// +kubebuilder:validation:Enum=Governance;Compliance
type LockMode string

// The modes of S3 Object Lock.
const (
	LockGovernance LockMode = "Governance"
	LockCompliance LockMode = "Compliance"
)

// S3Location is a prefix in a bucket.
type S3Location struct {
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=63
	Bucket string `json:"bucket"`

	// Prefix keeps several vaults apart in one bucket.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/')",message="a prefix neither starts nor ends with a slash"
	Prefix string `json:"prefix,omitempty"`

	// +optional
	Region string `json:"region,omitempty"`

	// Endpoint is the URL of an S3-compatible server; empty for AWS.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == '' || self.startsWith('https://') || self.startsWith('http://')",message="an endpoint is a URL that starts with https:// or http://"
	Endpoint string `json:"endpoint,omitempty"`

	// CredentialsSecretRef names a Secret in lockstep-system with the entries accessKeyID, secretAccessKey and, if needed,
	// sessionToken and ca.crt. Without it the ambient credentials of the pod are used.
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`
}

// FilesystemLocation is a directory.
type FilesystemLocation struct {
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/')",message="a path is absolute"
	Path string `json:"path"`
}

// SecretReference names a Secret; its namespace is the one the field says.
type SecretReference struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// VaultStatus is what the controller last saw.
type VaultStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ID is the vault's own name for itself; a store that suddenly shows another ID is not this vault.
	// +optional
	ID string `json:"id,omitempty"`
	// Points counts the restore points in the vault when it was last listed whole.
	// +optional
	Points int32 `json:"points,omitempty"`
	// CheckedAt is when the vault was last opened.
	// +optional
	CheckedAt *metav1.Time `json:"checkedAt,omitempty"`
	// DownSince is since when the vault has not been Ready; absent while it is. Meanwhile no scheduled point and no copy is begun, and a
	// point that somebody waits for fails at once.
	// +optional
	DownSince *metav1.Time `json:"downSince,omitempty"`
	// Prune is what came of deleting what no point needs.
	// +optional
	Prune *VaultPrune `json:"prune,omitempty"`
}

// VaultPrune is what came of deleting what no point needs.
type VaultPrune struct {
	// Running names the Job of lockstep-system that is at it.
	// +optional
	Running string `json:"running,omitempty"`
	// LastRun is the scheduled time that was last acted upon.
	// +optional
	LastRun *metav1.Time `json:"lastRun,omitempty"`
	// NextRun is when it begins again.
	// +optional
	NextRun *metav1.Time `json:"nextRun,omitempty"`
	// PrunedAt is when it was last done.
	// +optional
	PrunedAt *metav1.Time `json:"prunedAt,omitempty"`
	// FreedBytes is what was deleted then, WaitingBytes what is needless and not yet for the grace time.
	// +optional
	FreedBytes int64 `json:"freedBytes,omitempty"`
	// +optional
	WaitingBytes int64 `json:"waitingBytes,omitempty"`
	// LockedBytes is what should go and the store must keep for now.
	// +optional
	LockedBytes int64 `json:"lockedBytes,omitempty"`
	// Error says why the last run did not do it; nothing was deleted that is needed.
	// +optional
	Error string `json:"error,omitempty"`
}

// Vault is where data goes: an object store and its key. It is the source of truth: a fresh cluster needs nothing but
// the Vault and Git.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=lockstep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Points",type=integer,JSONPath=`.status.points`
// +kubebuilder:printcolumn:name="Checked",type=date,JSONPath=`.status.checkedAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Vault struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VaultSpec   `json:"spec"`
	Status VaultStatus `json:"status,omitempty"`
}

// VaultList is a list of Vaults.
//
// +kubebuilder:object:root=true
type VaultList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Vault `json:"items"`
}

// GetConditions returns the status conditions.
func (v *Vault) GetConditions() []metav1.Condition { return v.Status.Conditions }

// SetConditions replaces the status conditions.
func (v *Vault) SetConditions(c []metav1.Condition) { v.Status.Conditions = c }

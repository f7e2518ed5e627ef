package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RestoreSpec asks for one replay of a revision with its data.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a restore is one replay: make a new one instead of changing it"
// +kubebuilder:validation:XValidation:rule="has(self.source) != has(self.volumes)",message="say what comes back: source for a commit with its data, or volumes for volumes alone, which needs no repository"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || !has(self.from.tag) && !has(self.from.branch)",message="volumes alone come back without asking a repository, which a tag or branch needs: use from.restorePoint, from.before or the full from.commit"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || !has(self.from.commit) || size(self.from.commit) >= 40",message="volumes alone come back without asking a repository, which could complete a commit: give from.commit in full"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || !has(self.from.before) || has(self.from.application)",message="a moment alone does not say of what: with volumes, from.before needs from.application"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || !has(self.from.allowAncestor) && !has(self.from.allowMismatch)",message="volumes alone are paired with no commit: leave out allowAncestor and allowMismatch"
// +kubebuilder:validation:XValidation:rule="!has(self.only) || has(self.source)",message="only chooses among the workloads of a commit: say which with source"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || !has(self.map) || !has(self.map.namespaces)",message="volumes say themselves where they go: use volumes[].as instead of map.namespaces"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || self.volumes.all(v, has(v.empty) && v.empty) || !self.volumes.exists(v, has(v.empty) && v.empty)",message="volumes are all filled from the point or all empty: make two restores"
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || !self.volumes.exists(v, has(v.empty) && v.empty && has(v.as))",message="a claim that begins empty has no other name: leave out as"
// +kubebuilder:validation:XValidation:rule="!has(self.existingClaims) || self.existingClaims != 'SetAside' || has(self.source)",message="existingClaims: SetAside stops workloads, and only the commit of source says how they run again: leave it out for volumes alone"
type RestoreSpec struct {
	From RestoreFrom `json:"from"`
	// Source is the Git repository and the path in it to replay; needed unless only volumes come back.
	// +optional
	Source GitSource `json:"source,omitzero"`
	// Volumes are the only claims that come back, filled from the point. No commit is replayed and no repository is asked.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=claim
	Volumes []VolumeRequest `json:"volumes,omitempty"`
	// Only are the workloads of the commit that come back, each with its claims and what else of the commit it needs. Everything
	// else of the commit is left alone, and the application does not count as deployed at it.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Only []WorkloadReference `json:"only,omitempty"`
	// Map brings the commit and its data back under other names: a copy beside the running original, or storage of another class.
	// +optional
	Map *RestoreMap `json:"map,omitempty"`
	// ExistingClaims says what becomes of bound claims that are in the way. Refuse: the restore does not begin. SetAside: once every
	// volume of the point is filled and verified, the workloads that mount those claims are stopped, and the claims are replaced.
	// The old volumes stay, with their data and the reclaim policy Retain. Nothing is ever written to them.
	// +optional
	// +kubebuilder:default=Refuse
	// +kubebuilder:validation:Enum=Refuse;SetAside
	ExistingClaims ExistingClaims `json:"existingClaims,omitempty"`
	// Engine applies the commit: Flux, ArgoCD, or Lockstep itself (Direct). Auto takes the one of Flux and Argo CD that deploys
	// the same path of the same repository to this cluster, and Direct where none does.
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;Flux;ArgoCD;Direct
	Engine Engine `json:"engine,omitempty"`
	// Decryption holds the key of objects that are encrypted with SOPS. Only the engine Direct needs it: Flux has its own.
	// +optional
	Decryption *Decryption `json:"decryption,omitempty"`
	// Verify says how a filled volume is proven before it is bound: Readback reads it again from storage, Write trusts the
	// digest taken while writing.
	// +optional
	// +kubebuilder:default=Readback
	// +kubebuilder:validation:Enum=Write;Readback
	Verify Verify `json:"verify,omitempty"`
	// CheckImages asks the registries, before anything is created, whether the images of the commit's pods can be had.
	// +optional
	CheckImages bool `json:"checkImages,omitempty"`
	// Timeout bounds the wait for healthy workloads after their volumes are bound; 10 minutes by default.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// DependsOn are Restores of the same namespace that must be Ready before this one begins.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	DependsOn []RestoreReference `json:"dependsOn,omitempty"`
}

// RestoreReference names a Restore of the same namespace.
type RestoreReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// WorkloadReference names a workload of a commit.
type WorkloadReference struct {
	// +kubebuilder:validation:Enum=CronJob;DaemonSet;Deployment;Job;Pod;ReplicaSet;StatefulSet
	Kind string `json:"kind"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// VolumeRequest asks for one volume of a point.
type VolumeRequest struct {
	// Claim is "<namespace>/<name>" of the claim as the point holds it.
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`
	Claim string `json:"claim"`
	// As is "<namespace>/<name>" of the claim to fill, the same by default. A claim of another name is made anew, with the class,
	// modes and size of the saved one and none of its labels and annotations, so that no controller takes it for its own.
	// +optional
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`
	As string `json:"as,omitempty"`
	// Empty gives the claim a volume without data, and no point is asked for it. The claim must exist and be pending: it is how a
	// claim that waits for data of which the vault has proven that there is none gets to begin.
	// +optional
	Empty bool `json:"empty,omitempty"`
}

// RestoreMap gives namespaces and storage classes other names.
//
// +kubebuilder:validation:XValidation:rule="has(self.namespaces) || has(self.storageClasses)",message="map namespaces or storageClasses, or leave map out"
type RestoreMap struct {
	// Namespaces maps namespaces of the commit and the point onto those that they are restored into. Only a Restore in
	// lockstep-system may have it.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	Namespaces map[string]NamespaceName `json:"namespaces,omitempty"`
	// StorageClasses maps the classes that claims ask for onto those that provision them.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	StorageClasses map[string]StorageClassName `json:"storageClasses,omitempty"`
}

// NamespaceName is the name of a namespace.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type NamespaceName string

// StorageClassName is the name of a StorageClass.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
type StorageClassName string

// Engine applies the objects of a commit.
type Engine string

// Engines.
const (
	EngineAuto   Engine = "Auto"
	EngineFlux   Engine = "Flux"
	EngineArgoCD Engine = "ArgoCD"
	EngineDirect Engine = "Direct"
)

// ExistingClaims is what becomes of bound claims that are in the way of a restore.
type ExistingClaims string

// What becomes of them.
const (
	ExistingRefuse   ExistingClaims = "Refuse"
	ExistingSetAside ExistingClaims = "SetAside"
)

// Decryption is how encrypted objects are opened.
type Decryption struct {
	// SecretRef names a Secret of the Restore's namespace whose entries that end in .agekey hold age keys, as for Flux.
	SecretRef SecretReference `json:"secretRef"`
	// IgnoreMAC opens also files that were changed after they were encrypted, without SOPS. Flux does so always.
	// +optional
	IgnoreMAC bool `json:"ignoreMAC,omitempty"`
}

// Verify is how a filled volume is proven.
type Verify string

// Ways to verify.
const (
	VerifyWrite    Verify = "Write"
	VerifyReadback Verify = "Readback"
)

// RestoreFrom says which point.
//
// +kubebuilder:validation:XValidation:rule="!has(self.schemaPaths) || has(self.allowAncestor) && self.allowAncestor",message="schemaPaths tell whether an earlier commit fits: they need allowAncestor"
// +kubebuilder:validation:XValidation:rule="[has(self.commit), has(self.tag), has(self.branch), has(self.restorePoint), has(self.before)].filter(x, x).size() == 1",message="say which point in exactly one way: commit, tag, branch, restorePoint or before"
// +kubebuilder:validation:XValidation:rule="!has(self.allowAncestor) || !self.allowAncestor || has(self.commit) || has(self.tag) || has(self.branch)",message="allowAncestor is for a commit, tag or branch: restorePoint and before say themselves which point"
type RestoreFrom struct {
	// Vault names the Vault to read.
	// +kubebuilder:validation:MinLength=1
	Vault string `json:"vault"`
	// Application is "<namespace>/<name>" of the policy that made the points; needed only where the vault holds points of
	// several applications for the same repository and path.
	// +optional
	Application string `json:"application,omitempty"`
	// Commit is a full or unambiguous short object name.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{7,64}$`
	Commit string `json:"commit,omitempty"`
	// +optional
	// +kubebuilder:validation:MinLength=1
	Tag string `json:"tag,omitempty"`
	// Branch asks for the commit that the branch is at when the point is chosen.
	// +optional
	// +kubebuilder:validation:MinLength=1
	Branch string `json:"branch,omitempty"`
	// RestorePoint is the id of a point in the vault.
	// +optional
	// +kubebuilder:validation:MinLength=1
	RestorePoint string `json:"restorePoint,omitempty"`
	// Before asks for the newest point taken before this moment.
	// +optional
	Before *metav1.Time `json:"before,omitempty"`
	// AllowAncestor allows the newest point of the nearest earlier commit, where no point was taken at the commit or at one that
	// deploys the same thing.
	// +optional
	AllowAncestor bool `json:"allowAncestor,omitempty"`
	// SchemaPaths are files and directories of the repository that tell which schema the data has, as a directory of migrations. An
	// earlier commit in which they are the same is taken without allowMismatch. By default it is all of source.path.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.all(p, !p.startsWith('/') && !p.split('/').exists(q, q == '..'))",message="a schema path is relative to the repository and stays inside it"
	SchemaPaths []string `json:"schemaPaths,omitempty"`
	// AllowMismatch allows a point whose data may have another schema than the commit expects: the commit that ran when it was
	// taken deploys something else.
	// +optional
	AllowMismatch bool `json:"allowMismatch,omitempty"`
}

// GitSource is a directory of a repository.
type GitSource struct {
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.startsWith('https://') || self.startsWith('http://') || self.startsWith('ssh://')",message="a repository URL starts with https://, http:// or ssh://"
	URL string `json:"url"`
	// Path is the directory to replay, "." for the root.
	// +optional
	// +kubebuilder:default="."
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(p, p == '..')",message="a path is relative and stays inside the repository"
	Path string `json:"path,omitempty"`
	// SecretRef names a Secret of the Restore's namespace: username and password, bearerToken, or identity and known_hosts,
	// and ca.crt where the server's certificate needs it.
	// +optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`
}

// RestoreStatus is the work so far, with the measured times.
type RestoreStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Revision is the commit being replayed; none where only volumes come back.
	// +optional
	Revision *Revision `json:"revision,omitempty"`
	// Point is the chosen point; once written it is never chosen again.
	// +optional
	Point *ChosenPoint `json:"point,omitempty"`
	// Engine is what applies the commit. It is written before anything is held or applied, and never chosen again.
	// +optional
	Engine *EngineStatus `json:"engine,omitempty"`
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// ReservedAt is when every claim was reserved.
	// +optional
	ReservedAt *metav1.Time `json:"reservedAt,omitempty"`
	// BoundAt is when every claim was bound to its verified volume.
	// +optional
	BoundAt *metav1.Time `json:"boundAt,omitempty"`
	// CompletedAt is when every workload was healthy.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// RTO is the measured one: CompletedAt - StartedAt.
	// +optional
	RTO *metav1.Duration `json:"rto,omitempty"`
	// Objective is the RTO that the application's policy promises in the commit being replayed.
	// +optional
	Objective *metav1.Duration `json:"objective,omitempty"`
	// ObjectiveMet says whether RTO is within Objective.
	// +optional
	ObjectiveMet *bool `json:"objectiveMet,omitempty"`
	// Summary counts what is back, for people.
	// +optional
	Summary string `json:"summary,omitempty"`
	// NotChecked says what might speak against the restore and could not be found out before it began, and why.
	// +optional
	NotChecked []string `json:"notChecked,omitempty"`
	// +optional
	Volumes []VolumeRestore `json:"volumes,omitempty"`
	// +optional
	Workloads []WorkloadRestore `json:"workloads,omitempty"`
	// Stopped are the workloads that are stopped for volumes to be set aside, with what they had. It is written before anything is
	// stopped, and never chosen again.
	// +optional
	Stopped []StoppedWorkload `json:"stopped,omitempty"`
	// LastHandledReconcileAt is the last value of the annotation lockstep.dev/reconcile-at that was acted upon.
	// +optional
	LastHandledReconcileAt string `json:"lastHandledReconcileAt,omitempty"`
}

// ChosenPoint is a point and why it was chosen.
type ChosenPoint struct {
	ID string `json:"id"`
	// Match is Exact, SameTree, Ancestor, Named or Before.
	Match string `json:"match"`
	// Message says in words why.
	Message string      `json:"message"`
	Taken   metav1.Time `json:"taken"`
	// Commit is the one that ran when the point was taken.
	Commit string `json:"commit"`
}

// EngineStatus is what applies the commit of a restore.
type EngineStatus struct {
	// Name is Flux, ArgoCD or Direct.
	Name Engine `json:"name"`
	// Message says in words why this one.
	// +optional
	Message string `json:"message,omitempty"`
	// Objects are those of the engine that the restore pins, holds and releases, in the order of their release.
	// +optional
	Objects []EngineObject `json:"objects,omitempty"`
	// ReleasedAt is when the engine was left to itself again.
	// +optional
	ReleasedAt *metav1.Time `json:"releasedAt,omitempty"`
}

// EngineObject is an object of Flux or Argo CD and what a restore does with it.
type EngineObject struct {
	Kind      string     `json:"kind"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Role      EngineRole `json:"role"`
	// After are the objects, "<namespace>/<name>", that must be ready before this one is released.
	// +optional
	After []string `json:"after,omitempty"`
}

// EngineRole is what a restore does with an object of Flux or Argo CD.
type EngineRole string

// Roles.
const (
	// RoleSource: it is pinned to the commit until the restore is released.
	RoleSource EngineRole = "Source"
	// RoleUnit: it deploys the commit. It is held until every claim is reserved.
	RoleUnit EngineRole = "Unit"
	// RoleBystander: it would undo the restore, or follow the pin without being restored. It is held until the restore is
	// released.
	RoleBystander EngineRole = "Bystander"
)

// HydrationState is where one volume of a restore stands, for people; the controller derives it afresh each time.
type HydrationState string

// States of a volume of a Restore.
const (
	HydrationPlanned   HydrationState = "Planned"
	HydrationStaging   HydrationState = "Staging"
	HydrationReserved  HydrationState = "Reserved"
	HydrationHydrating HydrationState = "Hydrating"
	HydrationVerifying HydrationState = "Verifying"
	HydrationDetaching HydrationState = "Detaching"
	HydrationReplacing HydrationState = "Replacing"
	HydrationRebinding HydrationState = "Rebinding"
	HydrationBound     HydrationState = "Bound"
	HydrationFailed    HydrationState = "Failed"
)

// VolumeRestore is one claim of a restore.
type VolumeRestore struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// SetAside is the PersistentVolume that the claim had before and that is kept with its data, Replaces the UID of that claim.
	// They are written before anything is stopped, and never chosen again.
	// +optional
	SetAside string `json:"setAside,omitempty"`
	// +optional
	Replaces string `json:"replaces,omitempty"`
	// +optional
	State HydrationState `json:"state,omitempty"`
	// Snapshot is the id of the saved volume in the vault.
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// Bytes is the size to write, Progress what is written; or, while the state is Verifying, what is read back.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// +optional
	Progress int64 `json:"progress,omitempty"`
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// Reread counts what was found altered when it was read from the vault, and good when it was read once more: something on the
	// way alters data.
	// +optional
	Reread int64 `json:"reread,omitempty"`
	// +optional
	ReservedAt *metav1.Time `json:"reservedAt,omitempty"`
	// HydratedAt is when the volume was written and verified.
	// +optional
	HydratedAt *metav1.Time `json:"hydratedAt,omitempty"`
	// +optional
	BoundAt *metav1.Time `json:"boundAt,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// StoppedWorkload is a workload that mounts volumes which are set aside.
type StoppedWorkload struct {
	// Kind is Deployment, StatefulSet or CronJob.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Replicas is how many it had. They are given back where the commit leaves their number to somebody else, as an autoscaler. A
	// CronJob has none: it was not suspended.
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
}

// WorkloadState is where one workload of a restore stands.
type WorkloadState string

// States of a workload of a Restore.
const (
	WorkloadWaiting  WorkloadState = "Waiting"
	WorkloadReleased WorkloadState = "Released"
	WorkloadHealthy  WorkloadState = "Healthy"
)

// WorkloadRestore is one workload of a restore.
type WorkloadRestore struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// +optional
	State WorkloadState `json:"state,omitempty"`
	// WaitsFor is what must be there before the workload is created: claims ("<namespace>/<name>"), which must be reserved and
	// for whose binding its pods then wait, and objects ("<Kind> <namespace>/<name>").
	// +optional
	WaitsFor []string `json:"waitsFor,omitempty"`
	// Replaces is the UID of a Job that failed before the restored data was in use. It is deleted and made again, once.
	// +optional
	Replaces string `json:"replaces,omitempty"`
	// +optional
	ReleasedAt *metav1.Time `json:"releasedAt,omitempty"`
	// +optional
	HealthyAt *metav1.Time `json:"healthyAt,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// Restore is one replay of a revision with its data.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=lockstep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Point",type=string,JSONPath=`.status.point.id`
// +kubebuilder:printcolumn:name="Match",type=string,JSONPath=`.status.point.match`
// +kubebuilder:printcolumn:name="Commit",type=string,JSONPath=`.status.revision.commit`,priority=1
// +kubebuilder:printcolumn:name="Back",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="RTO",type=string,JSONPath=`.status.rto`
// +kubebuilder:printcolumn:name="Objective",type=string,JSONPath=`.status.objective`,priority=1
// +kubebuilder:printcolumn:name="Started",type=date,JSONPath=`.status.startedAt`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type Restore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RestoreSpec   `json:"spec"`
	Status RestoreStatus `json:"status,omitempty"`
}

// RestoreList is a list of Restores.
//
// +kubebuilder:object:root=true
type RestoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Restore `json:"items"`
}

// GetConditions returns the status conditions.
func (r *Restore) GetConditions() []metav1.Condition { return r.Status.Conditions }

// SetConditions replaces the status conditions.
func (r *Restore) SetConditions(c []metav1.Condition) { r.Status.Conditions = c }

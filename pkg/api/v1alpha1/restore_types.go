package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RestoreSpec asks for one replay of a revision with its data.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a restore is one replay: make a new one instead of changing it"
type RestoreSpec struct {
	From RestoreFrom `json:"from"`
	// Source is the Git repository and the path in it to replay.
	Source GitSource `json:"source"`
	// Engine applies the commit. Auto finds which one rules the target.
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;Direct
	Engine Engine `json:"engine,omitempty"`
	// Verify says how a filled volume is proven before it is bound: Readback reads it again from storage, Write trusts the
	// digest taken while writing.
	// +optional
	// +kubebuilder:default=Readback
	// +kubebuilder:validation:Enum=Write;Readback
	Verify Verify `json:"verify,omitempty"`
	// Timeout bounds the wait for healthy workloads after their volumes are bound; 10 minutes by default.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// Engine applies the objects of a commit.
type Engine string

// Engines.
const (
	EngineAuto   Engine = "Auto"
	EngineDirect Engine = "Direct"
)

// Verify is how a filled volume is proven.
type Verify string

// Ways to verify.
const (
	VerifyWrite    Verify = "Write"
	VerifyReadback Verify = "Readback"
)

// RestoreFrom says which point.
//
// +kubebuilder:validation:XValidation:rule="[has(self.commit), has(self.tag), has(self.restorePoint), has(self.before)].filter(x, x).size() == 1",message="say which point in exactly one way: commit, tag, restorePoint or before"
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
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{7,64}$`
	Commit string `json:"commit,omitempty"`
	// +optional
	// +kubebuilder:validation:MinLength=1
	Tag string `json:"tag,omitempty"`
	// RestorePoint is the id of a point in the vault.
	// +optional
	// +kubebuilder:validation:MinLength=1
	RestorePoint string `json:"restorePoint,omitempty"`
	// Before asks for the newest point taken before this moment.
	// +optional
	Before *metav1.Time `json:"before,omitempty"`
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
	// Revision is the commit being replayed.
	// +optional
	Revision *Revision `json:"revision,omitempty"`
	// Point is the chosen point; once written it is never chosen again.
	// +optional
	Point *ChosenPoint `json:"point,omitempty"`
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// ReservedAt is when every claim was reserved.
	// +optional
	ReservedAt *metav1.Time `json:"reservedAt,omitempty"`
	// BoundAt is when every claim was bound to its verified volume.
	// +optional
	BoundAt *metav1.Time `json:"boundAt,omitempty"`
	// CompletedAt is when every workload was healthy; CompletedAt - StartedAt is the RTO.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// +optional
	Volumes []VolumeRestore `json:"volumes,omitempty"`
	// +optional
	Workloads []WorkloadRestore `json:"workloads,omitempty"`
	// LastHandledReconcileAt is the last value of the annotation lockstep.dev/reconcile-at that was acted upon.
	// +optional
	LastHandledReconcileAt string `json:"lastHandledReconcileAt,omitempty"`
}

// ChosenPoint is a point and why it was chosen.
type ChosenPoint struct {
	ID string `json:"id"`
	// Match is Exact, SameTree, Named or Before.
	Match string `json:"match"`
	// Message says in words why.
	Message string      `json:"message"`
	Taken   metav1.Time `json:"taken"`
	// Commit is the one that ran when the point was taken.
	Commit string `json:"commit"`
}

// HydrationState is where one volume of a restore stands, for people; the controller derives it afresh each time.
type HydrationState string

// States of a volume of a Restore.
const (
	HydrationPlanned   HydrationState = "Planned"
	HydrationStaging   HydrationState = "Staging"
	HydrationReserved  HydrationState = "Reserved"
	HydrationHydrating HydrationState = "Hydrating"
	HydrationDetaching HydrationState = "Detaching"
	HydrationRebinding HydrationState = "Rebinding"
	HydrationBound     HydrationState = "Bound"
	HydrationFailed    HydrationState = "Failed"
)

// VolumeRestore is one claim of a restore.
type VolumeRestore struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// +optional
	State HydrationState `json:"state,omitempty"`
	// Snapshot is the id of the saved volume in the vault.
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// Bytes is the size to write, Progress what is written.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// +optional
	Progress int64 `json:"progress,omitempty"`
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
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
	// WaitsFor are the claims that must be reserved before the workload is created; its pods then wait for them to bind.
	// +optional
	WaitsFor []string `json:"waitsFor,omitempty"`
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

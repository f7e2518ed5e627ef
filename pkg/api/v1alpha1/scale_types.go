package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ScaleToZero takes the workloads that mount claims away while the snapshots of these are taken: for an application that cannot be held
// still. They have their replicas back as soon as the moment of the last snapshot is fixed, and whatever else happens.
type ScaleToZero struct {
	// Selector chooses among the claims that the policy selects; by default all of them.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// Timeout is the longest that the workloads are away, from the beginning of the point: then it fails, and they are scaled back. By
	// default it is 5m.
	// +optional
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('10m')",message="workloads are away for at least 10s and at most 10m"
	Timeout metav1.Duration `json:"timeout,omitempty"`
}

// Scaling is what is away while the snapshots of a point are taken. It is in the status before anything is scaled.
type Scaling struct {
	// Timeout is the policy's when the point began.
	Timeout metav1.Duration `json:"timeout"`
	// +optional
	// +listType=atomic
	Workloads []ScaledWorkload `json:"workloads,omitempty"`
	// GoneAt is when no pod had any of the claims, and no node any of their volumes.
	// +optional
	GoneAt *metav1.MicroTime `json:"goneAt,omitempty"`
	// CutAt is when the moment of every snapshot was fixed, and it was found that nothing had run since GoneAt.
	// +optional
	CutAt *metav1.MicroTime `json:"cutAt,omitempty"`
}

// ScaledWorkload is one workload that is scaled to zero for a point: whoever finds ScaleBackDue owes it its replicas.
type ScaledWorkload struct {
	// Kind is Deployment, StatefulSet or ReplicaSet.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// UID of the workload when the point began.
	UID string `json:"uid"`
	// Replicas is how many it is to have back.
	Replicas int32 `json:"replicas"`
	// ScaleBackDue is true from before it is scaled to zero until it has its replicas back, or somebody else has given it some.
	// +optional
	ScaleBackDue bool `json:"scaleBackDue,omitempty"`
	// Generation is that of the workload at zero. With another one somebody has changed it.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// ScaledAt is when it was at zero, ScaledBackAt when it had its replicas back.
	// +optional
	ScaledAt *metav1.MicroTime `json:"scaledAt,omitempty"`
	// +optional
	ScaledBackAt *metav1.MicroTime `json:"scaledBackAt,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

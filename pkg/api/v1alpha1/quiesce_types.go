package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// QuiesceHook holds an application still while its snapshots are taken: Pre runs in every selected pod before the first snapshot is
// asked for, Post as soon as the moment of the last one is fixed, and whatever else happens.
type QuiesceHook struct {
	// Selector selects pods of the policy's namespace.
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="this selector would choose every pod of the namespace: say which by matchLabels or matchExpressions"
	Selector metav1.LabelSelector `json:"selector"`
	// Container is where the commands run, by default the first of the pod.
	// +optional
	Container string `json:"container,omitempty"`
	// Pre holds the application still. It is a program and its arguments, not a line for a shell.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Pre []string `json:"pre"`
	// Post lets it go on. It may run more than once.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Post []string `json:"post"`
	// Timeout is the longest that the application is held still, from the start of Pre: then a watchdog in the container runs Post, with
	// or without a controller, and the point fails. By default it is 30s.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('5m')",message="an application is held still for at least 1s and at most 5m"
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// WhenNoPod says what becomes of a point while Selector selects no pod.
	// +optional
	// +kubebuilder:default=Fail
	WhenNoPod WhenNoPod `json:"whenNoPod,omitempty"`
}

// WhenNoPod says what becomes of a point whose hook finds no pod.
//
// +kubebuilder:validation:Enum=Fail;Skip
type WhenNoPod string

const (
	// WhenNoPodFail fails the point.
	WhenNoPodFail WhenNoPod = "Fail"
	// WhenNoPodSkip takes the point without the hook.
	WhenNoPodSkip WhenNoPod = "Skip"
)

// Quiesced is one container that is held still for a point. It is in the status before anything is done to the container: whoever finds
// PostHookDue owes it Post.
type Quiesced struct {
	// Hook is the position of the hook in the policy, from 0.
	Hook int32  `json:"hook"`
	Pod  string `json:"pod"`
	// UID of the pod.
	UID       string `json:"uid"`
	Container string `json:"container"`
	// ContainerID tells whether the container was restarted.
	ContainerID string `json:"containerID"`
	// Pre, Post and Timeout are the hook's when the point began.
	// +listType=atomic
	Pre []string `json:"pre"`
	// +listType=atomic
	Post    []string        `json:"post"`
	Timeout metav1.Duration `json:"timeout"`
	// Attempt counts how often Pre was begun anew because a controller had died meanwhile.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
	// PostHookDue is true from before Pre until Post has succeeded.
	// +optional
	PostHookDue bool `json:"postHookDue,omitempty"`
	// StartedAt is when Pre was begun, FrozenAt when it had succeeded, ThawedAt when Post had.
	// +optional
	StartedAt *metav1.MicroTime `json:"startedAt,omitempty"`
	// +optional
	FrozenAt *metav1.MicroTime `json:"frozenAt,omitempty"`
	// +optional
	ThawedAt *metav1.MicroTime `json:"thawedAt,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

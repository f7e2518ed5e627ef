// Package v1alpha1 holds the kinds of lockstep.dev: Vault, ProtectionPolicy, RestorePoint and Restore, with the
// conditions, reasons, labels and annotations they use. It has types only, no logic.
//
// +kubebuilder:object:generate=true
// +groupName=lockstep.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "lockstep.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&Vault{}, &VaultList{},
		&ProtectionPolicy{}, &ProtectionPolicyList{},
		&RestorePoint{}, &RestorePointList{},
		&Restore{}, &RestoreList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

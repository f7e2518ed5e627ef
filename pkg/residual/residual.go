// Package residual captures what an application needs and Git does not hold, and puts it back.
//
// At present that is Secrets: those that the workloads, ServiceAccounts and Ingresses of a namespace refer to and that no
// GitOps engine brings. Their names and values leave the cluster only in a sealed document of the vault.
package residual

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Version is the version of the document that this package writes, and the newest that it reads.
const Version = 1

// ErrInvalid is wrapped by every refusal of Decode.
var ErrInvalid = errors.New("invalid residual document")

// Set is what was captured with one restore point.
type Set struct {
	Version int             `json:"version"`
	Secrets []corev1.Secret `json:"secrets"`
}

// MissingError names a Secret that an object of Git needs and that neither Git nor the cluster holds.
type MissingError struct {
	// Secret is "<namespace>/<name>", By is "<kind> <name>".
	Secret, By string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s needs secret %q, which is not in the cluster: without it this commit cannot be replayed", e.By, e.Secret)
}

// Encode writes the set as JSON. The result is secret.
func Encode(s Set) ([]byte, error) { return json.Marshal(s) }

// Decode reads what Encode wrote, strictly.
func Decode(data []byte) (Set, error) {
	var s Set
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		// The cause is left out: it may quote a value.
		return Set{}, fmt.Errorf("%w: not the JSON that was expected", ErrInvalid)
	}
	if _, err := d.Token(); err != io.EOF {
		return Set{}, fmt.Errorf("%w: data after the document", ErrInvalid)
	}
	if s.Version != Version {
		return Set{}, fmt.Errorf("%w: version %d, this program reads version %d", ErrInvalid, s.Version, Version)
	}
	for _, secret := range s.Secrets {
		if secret.Namespace == "" || secret.Name == "" {
			return Set{}, fmt.Errorf("%w: a secret without a name", ErrInvalid)
		}
	}
	return s, nil
}

// Replay creates the objects that are absent, marked with the restore point they come from, and returns the names of those it
// created. What exists is left as it is.
func Replay(ctx context.Context, c client.Client, s Set, point string) ([]types.NamespacedName, error) {
	var created []types.NamespacedName
	for i := range s.Secrets {
		secret := s.Secrets[i].DeepCopy()
		metav1.SetMetaDataAnnotation(&secret.ObjectMeta, v1alpha1.AnnotationRestoredFrom, point)
		err := c.Create(ctx, secret, client.FieldOwner(v1alpha1.FieldManager))
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return created, fmt.Errorf("creating secret %q: %w", secret.Namespace+"/"+secret.Name, err)
		}
		created = append(created, client.ObjectKeyFromObject(secret))
	}
	return created, nil
}

// HeldByGit reports whether a GitOps engine brings the object: Lockstep's own, Flux or Argo CD.
func HeldByGit(o metav1.Object) bool {
	l := o.GetLabels()
	return l[v1alpha1.LabelApplicationName] != "" ||
		l["kustomize.toolkit.fluxcd.io/name"] != "" ||
		l["helm.toolkit.fluxcd.io/name"] != "" ||
		o.GetAnnotations()["argocd.argoproj.io/tracking-id"] != ""
}

// irreplaceable reports whether a Secret must be kept: not where Git, the control plane, or a controller with its own
// source brings it again, and would refuse to adopt ours.
func irreplaceable(s *corev1.Secret) bool {
	if HeldByGit(s) || s.DeletionTimestamp != nil {
		return false
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken, corev1.SecretTypeBootstrapToken:
		return false
	}
	return !slices.ContainsFunc(s.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.Kind == "ExternalSecret" || r.Kind == "SealedSecret"
	})
}

// sanitise keeps what makes the Secret what it is, and drops what ties it to its cluster.
func sanitise(s *corev1.Secret) corev1.Secret {
	clean := corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: s.Labels},
		Type:       s.Type, Immutable: s.Immutable, Data: s.Data,
	}
	for k, v := range s.Annotations {
		if k != corev1.LastAppliedConfigAnnotation {
			metav1.SetMetaDataAnnotation(&clean.ObjectMeta, k, v)
		}
	}
	var owners []string
	for _, o := range s.OwnerReferences {
		owners = append(owners, o.Kind+"/"+o.Name)
	}
	if len(owners) > 0 {
		metav1.SetMetaDataAnnotation(&clean.ObjectMeta, v1alpha1.AnnotationOwners, strings.Join(owners, ","))
	}
	return clean
}

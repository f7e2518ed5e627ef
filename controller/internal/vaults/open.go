// Package vaults opens the vaults that Vault objects describe, and keeps the objects' status true.
package vaults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Error says why a Vault cannot be used now.
type Error struct {
	Vault string
	// Reason is one of the reasons of a Vault's Ready condition, or ReasonVaultNotReady if there is no such Vault.
	Reason string
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("vault %q: %v", e.Vault, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Unknown reports whether the vault may well be in order: the store did not answer, or refused to.
func (e *Error) Unknown() bool { return e.Reason == v1alpha1.ReasonUnreachable }

// NewError sorts an error that came out of the vault.
func NewError(vault string, err error) error { return &Error{vault, reasonOf(err), err} }

// OpenStore opens the store of a URL; backend.Open is the one that is used outside of tests.
type OpenStore func(ctx context.Context, url string, c backend.Credentials) (store.Store, error)

// Opener opens vaults by the names of their Vault objects.
type Opener struct {
	// Reader reads Vaults and Secrets; it must not be a cache that holds other namespaces' Secrets.
	Reader client.Reader
	// Pod is the name of the controller's own pod in lockstep-system, empty when it runs outside of the cluster. A vault in a
	// filesystem is mounted into movers as it is mounted there.
	Pod string
	// OpenStore is backend.Open if nil.
	OpenStore OpenStore
}

// Open opens the vault. An error is an *Error, except when the API server itself could not be asked.
func (o *Opener) Open(ctx context.Context, name string) (*volume.Vault, error) {
	v, err := o.vault(ctx, name)
	if err != nil {
		return nil, err
	}
	return o.open(ctx, v)
}

func (o *Opener) open(ctx context.Context, v *v1alpha1.Vault) (*volume.Vault, error) {
	identities, err := o.identities(ctx, v)
	if err != nil {
		return nil, err
	}
	credentials, err := o.credentials(ctx, v)
	if err != nil {
		return nil, err
	}
	openStore := o.OpenStore
	if openStore == nil {
		openStore = backend.Open
	}
	url, err := urlOf(v)
	if err != nil {
		return nil, err
	}
	s, err := openStore(ctx, url, credentials)
	if err != nil {
		return nil, &Error{v.Name, v1alpha1.ReasonUnreachable, err}
	}
	opened, err := volume.Open(ctx, s, identities...)
	if err != nil {
		return nil, NewError(v.Name, err)
	}
	if v.Status.ID != "" && v.Status.ID != opened.ID() {
		return nil, &Error{v.Name, v1alpha1.ReasonVaultReplaced, fmt.Errorf("this is vault %s; until now vault %s was in its place. "+
			"If that is meant, delete the Vault object and make it anew", opened.ID(), v.Status.ID)}
	}
	return opened, nil
}

func urlOf(v *v1alpha1.Vault) (string, error) {
	url, err := mover.URL(v.Spec)
	if err != nil {
		return "", &Error{v.Name, v1alpha1.ReasonInvalidSpec, err}
	}
	return url, nil
}

// reasonOf sorts the engine's errors. Whatever proves nothing counts as unreachable.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, volume.ErrNoVault):
		return v1alpha1.ReasonNotInitialised
	case errors.Is(err, volume.ErrWrongKey):
		return v1alpha1.ReasonWrongKey
	case errors.Is(err, volume.ErrDamaged):
		return v1alpha1.ReasonDamaged
	case errors.Is(err, store.ErrCannotLock):
		return v1alpha1.ReasonNotImmutable
	}
	return v1alpha1.ReasonUnreachable
}

// Down says whether a vault is known to be unusable: it was when it was looked at last.
func (o *Opener) Down(ctx context.Context, name string) (bool, error) {
	v, err := o.vault(ctx, name)
	if err != nil {
		return false, err
	}
	return v.Status.DownSince != nil, nil
}

// Access tells movers how to reach the vault. Errors are as those of Open.
func (o *Opener) Access(ctx context.Context, name string) (mover.VaultAccess, error) {
	v, err := o.vault(ctx, name)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	url, err := urlOf(v)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	access := mover.VaultAccess{URL: url, KeySecret: v.Spec.KeySecretRef.Name}
	if v.Spec.S3 != nil && v.Spec.S3.CredentialsSecretRef != nil {
		access.CredentialsSecret = v.Spec.S3.CredentialsSecretRef.Name
	}
	if v.Spec.Filesystem == nil {
		return access, nil
	}
	mount, source, err := o.ownMount(ctx, v)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	mount.Name, source.Name = "vault", "vault"
	access.Mounts, access.Volumes = []corev1.VolumeMount{mount}, []corev1.Volume{source}
	return access, nil
}

func (o *Opener) vault(ctx context.Context, name string) (*v1alpha1.Vault, error) {
	v := &v1alpha1.Vault{}
	err := o.Reader.Get(ctx, client.ObjectKey{Name: name}, v)
	if apierrors.IsNotFound(err) {
		return nil, &Error{name, v1alpha1.ReasonVaultNotReady, errors.New("there is no Vault of this name")}
	}
	if err != nil {
		return nil, fmt.Errorf("reading vault %q: %w", name, err)
	}
	return v, nil
}

func (o *Opener) identities(ctx context.Context, v *v1alpha1.Vault) ([]age.Identity, error) {
	entries, err := o.secret(ctx, v, v.Spec.KeySecretRef.Name, v1alpha1.ReasonKeyMissing)
	if err != nil {
		return nil, err
	}
	key := entries[mover.KeyEntry]
	if len(bytes.TrimSpace(key)) == 0 {
		return nil, &Error{v.Name, v1alpha1.ReasonKeyMissing, fmt.Errorf("secret %q in %s has no entry %q: put the vault's age identity there",
			v.Spec.KeySecretRef.Name, v1alpha1.SystemNamespace, mover.KeyEntry)}
	}
	identities, err := age.ParseIdentities(bytes.NewReader(key))
	if err != nil {
		// The cause is left out: it may quote the key.
		return nil, &Error{v.Name, v1alpha1.ReasonKeyMissing, fmt.Errorf("entry %q of secret %q in %s is not an age identity (AGE-SECRET-KEY-1…)",
			mover.KeyEntry, v.Spec.KeySecretRef.Name, v1alpha1.SystemNamespace)}
	}
	return identities, nil
}

func (o *Opener) credentials(ctx context.Context, v *v1alpha1.Vault) (backend.Credentials, error) {
	if v.Spec.S3 == nil || v.Spec.S3.CredentialsSecretRef == nil {
		return backend.Credentials{}, nil
	}
	name := v.Spec.S3.CredentialsSecretRef.Name
	entries, err := o.secret(ctx, v, name, v1alpha1.ReasonCredentialsMissing)
	if err != nil {
		return backend.Credentials{}, err
	}
	for _, entry := range []string{mover.AccessKeyIDEntry, mover.SecretAccessKeyEntry} {
		if len(entries[entry]) == 0 {
			return backend.Credentials{}, &Error{v.Name, v1alpha1.ReasonCredentialsMissing,
				fmt.Errorf("secret %q in %s has no entry %q", name, v1alpha1.SystemNamespace, entry)}
		}
	}
	text := func(entry string) string { return strings.TrimSpace(string(entries[entry])) }
	return backend.Credentials{
		AccessKeyID: text(mover.AccessKeyIDEntry), SecretAccessKey: text(mover.SecretAccessKeyEntry),
		SessionToken: text(mover.SessionTokenEntry), CACert: entries[mover.CAEntry],
	}, nil
}

func (o *Opener) secret(ctx context.Context, v *v1alpha1.Vault, name, reason string) (map[string][]byte, error) {
	s := &corev1.Secret{}
	err := o.Reader.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: name}, s)
	if apierrors.IsNotFound(err) {
		return nil, &Error{v.Name, reason, fmt.Errorf("there is no secret %q in namespace %s", name, v1alpha1.SystemNamespace)}
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %q of vault %q: %w", name, v.Name, err)
	}
	return s.Data, nil
}

// ownMount finds what the controller's pod has mounted where the vault is.
func (o *Opener) ownMount(ctx context.Context, v *v1alpha1.Vault) (corev1.VolumeMount, corev1.Volume, error) {
	refuse := func(format string, args ...any) (corev1.VolumeMount, corev1.Volume, error) {
		return corev1.VolumeMount{}, corev1.Volume{}, &Error{v.Name, v1alpha1.ReasonInvalidSpec, fmt.Errorf(format, args...)}
	}
	if o.Pod == "" {
		return refuse("a vault in a filesystem needs a controller that runs in the cluster: movers mount what its pod mounts")
	}
	pod := &corev1.Pod{}
	if err := o.Reader.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: o.Pod}, pod); err != nil {
		return corev1.VolumeMount{}, corev1.Volume{}, fmt.Errorf("reading the controller's own pod %q: %w", o.Pod, err)
	}
	path := v.Spec.Filesystem.Path + "/"
	var best corev1.VolumeMount
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			dir := strings.TrimSuffix(m.MountPath, "/")
			if strings.HasPrefix(path, dir+"/") && len(dir) > len(strings.TrimSuffix(best.MountPath, "/")) {
				best = m
			}
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if best.Name != "" && volume.Name == best.Name {
			return best, volume, nil
		}
	}
	return refuse("the controller's pod has nothing mounted at %q: mount the vault's volume there", v.Spec.Filesystem.Path)
}

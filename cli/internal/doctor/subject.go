package doctor

import (
	"context"
	"fmt"
	"sync"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Repository is an open Git repository.
type Repository interface {
	URL() string
	// Holds reports whether the commit is there still, with the path.
	Holds(ctx context.Context, commit, path string) error
}

// Subject is what is looked at. What several checks need is read once.
type Subject struct {
	// Cluster is nil where a vault is looked at alone.
	Cluster *kube.Cluster
	// Image of the controller that belongs to this program; empty if it is not known.
	Image string
	Now   func() time.Time
	// OpenVault opens the vault that is looked at alone.
	OpenVault func(ctx context.Context) (*vault.Opened, error)
	// Repository is nil if none was named: then Git is not asked.
	Repository Repository

	policies memo[[]v1alpha1.ProtectionPolicy]
	vaults   memo[[]v1alpha1.Vault]
	points   memo[[]v1alpha1.RestorePoint]
	restores memo[[]v1alpha1.Restore]
	claims   memo[[]corev1.PersistentVolumeClaim]
	classes  memo[[]storagev1.StorageClass]
	snapshot memo[[]snapshotv1.VolumeSnapshotClass]
	opened   memo[map[string]openedVault]
	bare     memo[*vault.Opened]
}

// memo is read once, by whoever asks first.
type memo[T any] struct {
	once  sync.Once
	value T
	err   error
}

func (m *memo[T]) get(read func() (T, error)) (T, error) {
	m.once.Do(func() { m.value, m.err = read() })
	return m.value, m.err
}

func (s *Subject) allPolicies(ctx context.Context) ([]v1alpha1.ProtectionPolicy, error) {
	return s.policies.get(func() ([]v1alpha1.ProtectionPolicy, error) {
		var l v1alpha1.ProtectionPolicyList
		err := s.list(ctx, "policies", &l)
		return l.Items, err
	})
}

func (s *Subject) allVaults(ctx context.Context) ([]v1alpha1.Vault, error) {
	return s.vaults.get(func() ([]v1alpha1.Vault, error) {
		var l v1alpha1.VaultList
		err := s.list(ctx, "vaults", &l)
		return l.Items, err
	})
}

func (s *Subject) allPoints(ctx context.Context) ([]v1alpha1.RestorePoint, error) {
	return s.points.get(func() ([]v1alpha1.RestorePoint, error) {
		var l v1alpha1.RestorePointList
		err := s.list(ctx, "restore points", &l)
		return l.Items, err
	})
}

func (s *Subject) allRestores(ctx context.Context) ([]v1alpha1.Restore, error) {
	return s.restores.get(func() ([]v1alpha1.Restore, error) {
		var l v1alpha1.RestoreList
		err := s.list(ctx, "restores", &l)
		return l.Items, err
	})
}

func (s *Subject) allClaims(ctx context.Context) ([]corev1.PersistentVolumeClaim, error) {
	return s.claims.get(func() ([]corev1.PersistentVolumeClaim, error) {
		var l corev1.PersistentVolumeClaimList
		err := s.list(ctx, "claims", &l)
		return l.Items, err
	})
}

func (s *Subject) allClasses(ctx context.Context) ([]storagev1.StorageClass, error) {
	return s.classes.get(func() ([]storagev1.StorageClass, error) {
		var l storagev1.StorageClassList
		err := s.list(ctx, "storage classes", &l)
		return l.Items, err
	})
}

// snapshotClasses are none where the cluster does not know the kind.
func (s *Subject) snapshotClasses(ctx context.Context) ([]snapshotv1.VolumeSnapshotClass, error) {
	return s.snapshot.get(func() ([]snapshotv1.VolumeSnapshotClass, error) {
		var l snapshotv1.VolumeSnapshotClassList
		if err := s.Cluster.List(ctx, &l); err != nil && !meta.IsNoMatchError(err) {
			return nil, fmt.Errorf("listing VolumeSnapshotClass: %w", err)
		}
		return l.Items, nil
	})
}

func (s *Subject) list(ctx context.Context, what string, l client.ObjectList, o ...client.ListOption) error {
	err := s.Cluster.List(ctx, l, o...)
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("listing %s: Lockstep's kinds are not installed", what)
	}
	if err != nil {
		return fmt.Errorf("listing %s: %w", what, err)
	}
	return nil
}

// serves finds the served version of a kind; ok is false if the cluster does not know the kind.
func (s *Subject) serves(kind schema.GroupKind) (version string, ok bool, err error) {
	m, err := s.Cluster.RESTMapper().RESTMapping(kind)
	if meta.IsNoMatchError(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("asking for the kind %s: %w", kind, err)
	}
	return m.GroupVersionKind.Version, true, nil
}

// objects lists a kind that the program has no types for; a kind that the cluster does not know has none.
func (s *Subject) objects(ctx context.Context, kind schema.GroupKind, o ...client.ListOption) ([]unstructured.Unstructured, error) {
	version, found, err := s.serves(kind)
	if err != nil || !found {
		return nil, err
	}
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(schema.GroupVersionKind{Group: kind.Group, Version: version, Kind: kind.Kind + "List"})
	if err := s.Cluster.List(ctx, l, o...); err != nil {
		return nil, fmt.Errorf("listing %s: %w", kind.Kind, err)
	}
	return l.Items, nil
}

func text(u unstructured.Unstructured, fields ...string) string {
	value, _, _ := unstructured.NestedString(u.Object, fields...)
	return value
}

func name(o client.Object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

func (s *Subject) openBare(ctx context.Context) (*vault.Opened, error) {
	return s.bare.get(func() (*vault.Opened, error) { return s.OpenVault(ctx) })
}

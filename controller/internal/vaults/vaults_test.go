package vaults_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func newKey(t *testing.T) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	must(t, err)
	return key
}

func newVault(t *testing.T, key *age.X25519Identity) (*mem.Store, *volume.Vault) {
	t.Helper()
	s := mem.New()
	v, err := volume.Create(t.Context(), s, key.Recipient())
	must(t, err)
	return s, v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// One API server for all; the cases run one after the other on Vaults of their own.
func TestVault(t *testing.T) {
	s := runtime.NewScheme()
	must(t, scheme.AddToScheme(s))
	must(t, v1alpha1.AddToScheme(s))
	_, c := testenv.Start(t, s)
	key := newKey(t)
	full, opened := newVault(t, key)
	must(t, catalog.Put(t.Context(), opened, onePoint()))
	broken, _ := newVault(t, key)
	must(t, broken.Delete(t.Context(), "config"))
	must(t, broken.Put(t.Context(), "config", []byte("nonsense")))
	secret := func(name string, entries map[string]string) {
		must(t, c.Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}, StringData: entries}))
	}
	secret("key", map[string]string{"identity": key.String()})
	secret("other", map[string]string{"identity": newKey(t).String()})
	secret("empty", map[string]string{"something": "else"})
	secret("garbage", map[string]string{"identity": "AGE-SECRET-KEY-1VERYSECRET"})
	secret("credentials", map[string]string{"accessKeyID": "id", "secretAccessKey": "secret\n"})
	secret("half", map[string]string{"accessKeyID": "id"})

	// The same vault in stores that lock.
	locked := func(faults storetest.Faults) store.Store {
		s := storetest.NewMemory()
		for info, err := range full.List(t.Context(), "") {
			must(t, err)
			data, err := full.Get(t.Context(), info.Name, 0, -1)
			must(t, err)
			must(t, s.Put(t.Context(), info.Name, data))
		}
		s.SetRetention(720 * time.Hour)
		s.SetFaults(faults)
		return s
	}
	lockingStore := locked(nil)
	lostLock := locked(storetest.On(storetest.Locked, "config", storetest.Fault{Err: store.ErrCannotLock}))
	silentLock := locked(storetest.On(storetest.Lock, "config", storetest.Fault{Err: store.ErrUnavailable}))

	tests := []struct {
		name        string
		key         string
		credentials string
		immutable   bool
		store       store.Store
		err         error
		status      metav1.ConditionStatus
		reason      string
		message     string
	}{
		{name: "good", key: "key", store: full, status: metav1.ConditionTrue, reason: v1alpha1.ReasonOpened},
		{name: "credentials", key: "key", credentials: "credentials", store: full, status: metav1.ConditionTrue, reason: v1alpha1.ReasonOpened},
		{name: "nokey", key: "absent", store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonKeyMissing,
			message: `there is no secret "absent" in namespace lockstep-system`},
		{name: "noentry", key: "empty", store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonKeyMissing, message: `no entry "identity"`},
		{name: "garbage", key: "garbage", store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonKeyMissing, message: "not an age identity"},
		{name: "wrongkey", key: "other", store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonWrongKey, message: "does not open"},
		{name: "nocredentials", key: "key", credentials: "absent", store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonCredentialsMissing,
			message: `there is no secret "absent"`},
		{name: "halfcredentials", key: "key", credentials: "half", store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonCredentialsMissing,
			message: `no entry "secretAccessKey"`},
		{name: "emptystore", key: "key", store: mem.New(), status: metav1.ConditionFalse, reason: v1alpha1.ReasonNotInitialised, message: "holds no vault"},
		{name: "damaged", key: "key", store: broken, status: metav1.ConditionFalse, reason: v1alpha1.ReasonDamaged, message: "damaged"},
		{name: "unreachable", key: "key", err: store.ErrUnavailable, status: metav1.ConditionUnknown, reason: v1alpha1.ReasonUnreachable, message: "unavailable"},
		{name: "locking", key: "key", immutable: true, store: lockingStore, status: metav1.ConditionTrue, reason: v1alpha1.ReasonOpened},
		{name: "nolock", key: "key", immutable: true, store: full, status: metav1.ConditionFalse, reason: v1alpha1.ReasonNotImmutable,
			message: "only S3 with Object Lock can"},
		{name: "bucketlost", key: "key", immutable: true, store: lostLock, status: metav1.ConditionFalse, reason: v1alpha1.ReasonNotImmutable,
			message: "cannot lock objects"},
		{name: "lockunknown", key: "key", immutable: true, store: silentLock, status: metav1.ConditionUnknown, reason: v1alpha1.ReasonUnreachable,
			message: "unavailable"},
		{name: "denied", key: "key", err: store.ErrDenied, status: metav1.ConditionUnknown, reason: v1alpha1.ReasonUnreachable, message: "denied"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newObject(tt.name, tt.key, tt.credentials)
			if tt.immutable {
				v.Spec.Immutability = &v1alpha1.Immutability{Mode: v1alpha1.LockCompliance, Retention: metav1.Duration{Duration: 720 * time.Hour}}
			}
			must(t, c.Create(t.Context(), v))
			o := &vaults.Opener{Reader: c, OpenStore: func(_ context.Context, _ string, got backend.Credentials) (store.Store, error) {
				if want := tt.credentials == "credentials"; (got.SecretAccessKey == "secret") != want {
					t.Errorf("credentials were handed over: %t, want %t", !want, want)
				}
				return tt.store, tt.err
			}}
			reconcile(t, c, o, v)
			ready := conditions.Get(v, v1alpha1.ConditionReady)
			if ready.Status != tt.status || ready.Reason != tt.reason || !strings.Contains(ready.Message, tt.message) {
				t.Errorf("got %s %s %q, want %s %s %q", ready.Status, ready.Reason, ready.Message, tt.status, tt.reason, tt.message)
			}
			if strings.Contains(ready.Message, "VERYSECRET") {
				t.Error("the key is in the status")
			}
			if conditions.IsStalled(v) != (tt.status == metav1.ConditionFalse) || v.Status.ObservedGeneration != v.Generation {
				t.Errorf("status %+v", v.Status)
			}
			if (v.Status.DownSince == nil) != (tt.status == metav1.ConditionTrue) {
				t.Errorf("down since %v", v.Status.DownSince)
			}
			if tt.name == "locking" {
				if until, err := lockingStore.(store.Locker).LockedUntil(t.Context(), "config"); err != nil || time.Until(until) < 719*time.Hour {
					t.Errorf("the config is locked until %v, %v", until, err)
				}
			}
			if tt.status == metav1.ConditionTrue && (v.Status.ID != opened.ID() || v.Status.Points != 1) {
				t.Errorf("id %q with %d points, want %q with 1", v.Status.ID, v.Status.Points, opened.ID())
			}
		})
	}
	t.Run("nothing was made in an empty store", func(t *testing.T) {
		for _, tt := range tests {
			if tt.name != "emptystore" {
				continue
			}
			for info, err := range tt.store.List(t.Context(), "") {
				t.Errorf("found %q, %v", info.Name, err)
			}
		}
	})
	t.Run("an outage is told from its beginning to its end", func(t *testing.T) {
		v := newObject("outage", "key", "")
		must(t, c.Create(t.Context(), v))
		var down error
		o := &vaults.Opener{Reader: c, OpenStore: func(context.Context, string, backend.Credentials) (store.Store, error) { return full, down }}
		reconcile(t, c, o, v)
		down = store.ErrUnavailable
		reconcile(t, c, o, v)
		begin := metav1.NewTime(v.Status.DownSince.Add(-time.Hour))
		v.Status.DownSince = &begin
		must(t, c.Status().Update(t.Context(), v))
		reconcile(t, c, o, v)
		if !v.Status.DownSince.Equal(&begin) {
			t.Errorf("the outage began anew at %s", v.Status.DownSince)
		}
		if is, err := o.Down(t.Context(), v.Name); !is || err != nil {
			t.Errorf("down: %t, %v", is, err)
		}
		down = nil
		reconcile(t, c, o, v)
		if is, err := o.Down(t.Context(), v.Name); is || err != nil || v.Status.DownSince != nil {
			t.Errorf("after the outage: %t, %v", is, err)
		}
	})
	t.Run("another vault in its place", func(t *testing.T) {
		v := newObject("replaced", "key", "")
		must(t, c.Create(t.Context(), v))
		now := store.Store(full)
		o := &vaults.Opener{Reader: c, OpenStore: func(context.Context, string, backend.Credentials) (store.Store, error) { return now, nil }}
		reconcile(t, c, o, v)
		now, _ = newVault(t, key)
		reconcile(t, c, o, v)
		if conditions.GetReason(v, v1alpha1.ConditionReady) != v1alpha1.ReasonVaultReplaced || v.Status.ID != opened.ID() {
			t.Errorf("status %+v", v.Status)
		}
		if _, err := o.Open(t.Context(), v.Name); err == nil {
			t.Error("the wrong vault was opened")
		}
	})
	t.Run("no such Vault", func(t *testing.T) {
		_, err := (&vaults.Opener{Reader: c}).Open(t.Context(), "nowhere")
		var why *vaults.Error
		if !errors.As(err, &why) || why.Reason != v1alpha1.ReasonVaultNotReady || why.Unknown() {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a filesystem is mounted as in the controller's pod", func(t *testing.T) { testFilesystem(t, c) })
}

func newObject(name, key, credentials string) *v1alpha1.Vault {
	v := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.VaultSpec{
		S3: &v1alpha1.S3Location{Bucket: "bucket"}, KeySecretRef: v1alpha1.SecretReference{Name: key}}}
	if credentials != "" {
		v.Spec.S3.CredentialsSecretRef = &v1alpha1.SecretReference{Name: credentials}
	}
	return v
}

func reconcile(t *testing.T, c client.Client, o *vaults.Opener, v *v1alpha1.Vault) {
	t.Helper()
	r := &vaults.Reconciler{Client: c, Events: record.NewFakeRecorder(100), Clock: clock.RealClock{}, Vaults: o}
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(v)})
	must(t, err)
	if result.RequeueAfter <= 0 {
		t.Error("the vault is not looked at again")
	}
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(v), v))
}

func onePoint() point.Record {
	moment := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return point.Record{
		Version: point.Version, ID: "20260102-030405-aaaaaaaa", Application: "shop/shop", Taken: moment, Completed: moment,
		Revision: v1alpha1.Revision{Repository: "r", Commit: "c", Path: ".", Tree: "t"},
	}
}

func testFilesystem(t *testing.T, c client.Client) {
	must(t, c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "default"}}))
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "nfs"}}
	must(t, c.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "controller"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "manager", Image: "none", VolumeMounts: []corev1.VolumeMount{
			{Name: "root", MountPath: "/data"}, {Name: "mine", MountPath: "/data/vault", SubPath: "sub"}, {Name: "near", MountPath: "/data/vault-2"}}}},
		Volumes: []corev1.Volume{
			{Name: "root", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}, {Name: "mine", VolumeSource: claim},
			{Name: "near", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}}))
	for name, path := range map[string]string{"inside": "/data/vault/a", "elsewhere": "/other"} {
		must(t, c.Create(t.Context(), &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.VaultSpec{
			Filesystem: &v1alpha1.FilesystemLocation{Path: path}, KeySecretRef: v1alpha1.SecretReference{Name: "key"}}}))
	}
	o := &vaults.Opener{Reader: c, Pod: "controller"}
	access, err := o.Access(t.Context(), "inside")
	must(t, err)
	wantVolumes := []corev1.Volume{{Name: "vault", VolumeSource: claim}}
	wantMounts := []corev1.VolumeMount{{Name: "vault", MountPath: "/data/vault", SubPath: "sub"}}
	if diff := cmp.Diff(wantVolumes, access.Volumes) + cmp.Diff(wantMounts, access.Mounts); diff != "" || access.URL != "file:///data/vault/a" {
		t.Errorf("url %q, %s", access.URL, diff)
	}
	for what, get := range map[string]func() error{
		"nothing is mounted there":  func() error { _, err := o.Access(t.Context(), "elsewhere"); return err },
		"the controller has no pod": func() error { _, err := (&vaults.Opener{Reader: c}).Access(t.Context(), "inside"); return err },
	} {
		var why *vaults.Error
		if err := get(); !errors.As(err, &why) || why.Reason != v1alpha1.ReasonInvalidSpec {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

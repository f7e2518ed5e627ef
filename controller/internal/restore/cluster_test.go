package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	k8sfake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	engine "github.com/lockstep-dr/lockstep/pkg/volume"
)

// newScheme has the groups that restores deal with, and no more: the client in memory makes a RESTMapper of all kinds for every write.
func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, storagev1.AddToScheme, authorizationv1.AddToScheme,
		autoscalingv2.AddToScheme, networkingv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// mapper knows the kinds that the test's commit has.
func mapper(scheme *runtime.Scheme) meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(scheme.PrioritizedVersionsAllGroups())
	for gvk := range scheme.AllKnownTypes() {
		switch gvk.Kind {
		case "Deployment", "StatefulSet", "PersistentVolumeClaim", "ProtectionPolicy", "Secret", "ConfigMap":
			m.Add(gvk, meta.RESTScopeNamespace)
		case "Namespace":
			m.Add(gvk, meta.RESTScopeRoot)
		}
	}
	return m
}

// cluster is an API server, in memory or a real one, with stand-ins for everything that acts in a cluster by itself: the
// provisioner, the volume controller, the job controller and kubelet with the movers. The restore controller under test is real.
type cluster struct {
	t *testing.T
	client.Client
	now time.Time
	// contents is what is on the disks, by volume.
	contents map[string]string
	// broken is what movers say instead of filling a volume, by snapshot; a hung one never ends.
	broken map[string]mover.Result
	hung   bool
	// stubborn keeps pods from ending.
	stubborn bool
	// full keeps volumes from being provisioned.
	full bool
	// provisioned counts volumes, to name them.
	provisioned int
}

// newFakeCluster is a cluster in memory. It gives out UIDs as an API server does, and has every type the test needs.
func newFakeCluster(t *testing.T) *cluster {
	t.Helper()
	scheme := newScheme(t)
	inner := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper(scheme)).
		WithStatusSubresource(&v1alpha1.Restore{}, &v1alpha1.Vault{}, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}, &batchv1.Job{}, &corev1.Pod{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
				if review, ok := o.(*authorizationv1.SelfSubjectAccessReview); ok {
					review.Status.Allowed = true
					return nil
				}
				o.SetUID(uuid.NewUUID())
				o.SetCreationTimestamp(metav1.Now())
				if claim, ok := o.(*corev1.PersistentVolumeClaim); ok {
					claim.Status.Phase = corev1.ClaimPending
				}
				return c.Create(ctx, o, opts...)
			},
		}).Build()
	return newCluster(t, inner)
}

func newCluster(t *testing.T, c client.Client) *cluster {
	return &cluster{t: t, Client: c, now: time.Now(), contents: map[string]string{}, broken: map[string]mover.Result{}}
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// settle lets the stand-ins do what is theirs, once.
func (c *cluster) settle(ctx context.Context) {
	c.t.Helper()
	c.kubelet(ctx)
	c.scaleDown(ctx)
	c.volumeController(ctx)
}

// scaleDown stands in for the controllers of workloads: what has no replicas any more has no pods.
func (c *cluster) scaleDown(ctx context.Context) {
	c.t.Helper()
	var pods corev1.PodList
	c.must(c.List(ctx, &pods))
	for i := range pods.Items {
		p := &pods.Items[i]
		owner := metav1.GetControllerOf(p)
		if owner == nil || c.stubborn {
			continue
		}
		set := &unstructured.Unstructured{}
		set.SetAPIVersion(owner.APIVersion)
		set.SetKind(owner.Kind)
		c.must(c.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: owner.Name}, set))
		if replicas, found, _ := unstructured.NestedInt64(set.Object, "spec", "replicas"); found && replicas == 0 {
			c.must(client.IgnoreNotFound(c.Delete(ctx, p, client.GracePeriodSeconds(0))))
		}
	}
}

// volumeController stands in for the provisioner and the volume controller: it provisions claims without a volume, binds claims whose
// volume is theirs, marks the others Lost, and deletes released volumes that nobody retains.
func (c *cluster) volumeController(ctx context.Context) {
	c.t.Helper()
	claims, pvs := c.claims(ctx), c.volumes(ctx)
	for i := range claims {
		claim := &claims[i]
		switch {
		case claim.DeletionTimestamp != nil:
			claim.Finalizers = nil // claims in use are protected; here none is
			c.must(client.IgnoreNotFound(c.Update(ctx, claim)))
		case claim.Spec.VolumeName == "":
			if claim.Spec.DataSourceRef == nil && !c.full && c.selected(ctx, claim) { // a source of such a kind is for a populator
				c.provision(ctx, claim)
			}
		default:
			pv, ok := pvs[claim.Spec.VolumeName]
			mine := ok && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == claim.UID
			was := claim.Status.Phase
			if mine {
				claim.Status.Phase = corev1.ClaimBound
			} else if was == corev1.ClaimBound {
				claim.Status.Phase = corev1.ClaimLost
			}
			if claim.Status.Phase != was {
				c.must(c.Status().Update(ctx, claim))
			}
		}
	}
	c.reclaim(ctx)
}

func (c *cluster) reclaim(ctx context.Context) {
	c.t.Helper()
	alive := map[types.UID]bool{}
	for _, claim := range c.claims(ctx) {
		alive[claim.UID] = true
	}
	for name, pv := range c.volumes(ctx) {
		if pv.DeletionTimestamp != nil || pv.Spec.ClaimRef != nil && !alive[pv.Spec.ClaimRef.UID] && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
			delete(c.contents, name)
			pv.Finalizers = nil
			c.must(client.IgnoreNotFound(c.Update(ctx, &pv)))
			c.must(client.IgnoreNotFound(c.Delete(ctx, &pv)))
		}
	}
}

// selected says that a volume may be provisioned now: of a class that waits for a consumer only once a pod mounts the claim.
func (c *cluster) selected(ctx context.Context, claim *corev1.PersistentVolumeClaim) bool {
	c.t.Helper()
	class := &storagev1.StorageClass{}
	c.must(c.Get(ctx, client.ObjectKey{Name: *claim.Spec.StorageClassName}, class))
	if class.VolumeBindingMode == nil || *class.VolumeBindingMode == storagev1.VolumeBindingImmediate {
		return true
	}
	var pods corev1.PodList
	c.must(c.List(ctx, &pods, client.InNamespace(claim.Namespace)))
	return slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return mounts(p.Spec, claim.Name) })
}

func mounts(spec corev1.PodSpec, claim string) bool {
	return slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim
	})
}

func (c *cluster) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) {
	c.t.Helper()
	c.provisioned++
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pvc-%s", claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "stand-in"}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *claim.Spec.Resources.Requests.Storage()},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "stand-in", VolumeHandle: string(claim.UID)}},
		},
	}
	c.must(c.Create(ctx, pv))
	claim.Spec.VolumeName = pv.Name
	c.must(c.Update(ctx, claim))
	claim.Status.Phase = corev1.ClaimBound
	c.must(c.Status().Update(ctx, claim))
}

// kubelet stands in for the job controller, kubelet and the movers: a Job's pod appears, and once its claims are bound each container
// fills its volume and leaves its result. Pods go with their Jobs.
func (c *cluster) kubelet(ctx context.Context) {
	c.t.Helper()
	var jobs batchv1.JobList
	c.must(c.List(ctx, &jobs))
	alive := map[string]bool{}
	for i := range jobs.Items {
		j := &jobs.Items[i]
		if j.DeletionTimestamp != nil {
			j.Finalizers = nil
			c.must(client.IgnoreNotFound(c.Update(ctx, j)))
			continue
		}
		alive[j.Name] = true
		c.runJob(ctx, j)
	}
	var pods corev1.PodList
	c.must(c.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace)))
	for i := range pods.Items {
		if !alive[pods.Items[i].Name] {
			c.must(client.IgnoreNotFound(c.Delete(ctx, &pods.Items[i], client.GracePeriodSeconds(0))))
		}
	}
}

func (c *cluster) runJob(ctx context.Context, j *batchv1.Job) {
	c.t.Helper()
	if !movers.Ended(j).IsZero() {
		return
	}
	pod := &corev1.Pod{}
	err := c.Get(ctx, client.ObjectKeyFromObject(j), pod)
	if apierrors.IsNotFound(err) {
		labels := map[string]string{batchv1.ControllerUidLabel: string(j.UID)}
		for k, v := range j.Spec.Template.Labels {
			labels[k] = v
		}
		c.must(c.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: j.Namespace, Name: j.Name, Labels: labels}, Spec: j.Spec.Template.Spec}))
		return
	}
	c.must(err)
	disks, bound := c.disks(ctx, j)
	if !bound || c.hung {
		return
	}
	failed := false
	for _, container := range j.Spec.Template.Spec.Containers {
		var tasks []mover.Task
		for _, e := range container.Env {
			if e.Name == mover.TaskEnv {
				c.must(json.Unmarshal([]byte(e.Value), &tasks))
			}
		}
		var results mover.Results
		for _, task := range tasks {
			result := c.runMover(task, disks[task.Claim])
			failed = failed || result.Error != ""
			results = append(results, result)
		}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name:  container.Name,
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: string(results.Encode(tasks)), FinishedAt: metav1.Time{Time: c.now}}},
		})
	}
	pod.Status.Phase = corev1.PodSucceeded
	c.must(c.Status().Update(ctx, pod))
	c.endJob(ctx, j, failed)
}

func (c *cluster) endJob(ctx context.Context, j *batchv1.Job, failed bool) {
	c.t.Helper()
	at := metav1.Time{Time: c.now}
	kinds := []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete}
	j.Status.StartTime, j.Status.CompletionTime, j.Status.Succeeded = &at, &at, 1
	if failed {
		kinds = []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed}
		j.Status.CompletionTime, j.Status.Succeeded, j.Status.Failed = nil, 0, 1
	}
	for _, k := range kinds {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: k, Status: corev1.ConditionTrue, LastTransitionTime: at})
	}
	c.must(c.Status().Update(ctx, j))
}

// disks are the volumes behind a Job's claims; bound says that all of them are there.
func (c *cluster) disks(ctx context.Context, j *batchv1.Job) (disks map[string]corev1.PersistentVolume, bound bool) {
	c.t.Helper()
	disks = map[string]corev1.PersistentVolume{}
	for _, v := range j.Spec.Template.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		claim, pv := &corev1.PersistentVolumeClaim{}, corev1.PersistentVolume{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: j.Namespace, Name: v.PersistentVolumeClaim.ClaimName}, claim); err != nil || claim.Status.Phase != corev1.ClaimBound {
			return nil, false
		}
		c.must(c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &pv))
		disks[claim.Name] = pv
	}
	return disks, true
}

// runMover writes onto a disk, which must not be anybody's yet.
func (c *cluster) runMover(task mover.Task, pv corev1.PersistentVolume) mover.Result {
	c.t.Helper()
	if pv.Spec.ClaimRef.Namespace != v1alpha1.SystemNamespace || pv.Annotations[v1alpha1.AnnotationHydrated] != "" {
		c.t.Errorf("a mover wrote onto volume %s of %s, filled %q", pv.Name, pv.Spec.ClaimRef.Name, pv.Annotations[v1alpha1.AnnotationHydrated])
	}
	if r, ok := c.broken[task.Snapshot]; ok {
		c.contents[pv.Name] = "part of " + task.Snapshot
		return r
	}
	c.contents[pv.Name] = task.Snapshot
	return mover.Result{Snapshot: task.Snapshot, ContentRoot: task.ContentRoot, MetaRoot: task.MetaRoot, Verified: true}
}

func (c *cluster) claims(ctx context.Context) []corev1.PersistentVolumeClaim {
	c.t.Helper()
	var list corev1.PersistentVolumeClaimList
	c.must(c.List(ctx, &list))
	return list.Items
}

func (c *cluster) volumes(ctx context.Context) map[string]corev1.PersistentVolume {
	c.t.Helper()
	var list corev1.PersistentVolumeList
	c.must(c.List(ctx, &list))
	out := map[string]corev1.PersistentVolume{}
	for _, pv := range list.Items {
		out[pv.Name] = pv
	}
	return out
}

// commit is a stand-in for a repository with one commit and one tag. pkg/git has tests of its own.
type commit struct {
	namespace string
	err       error
	// more is a further manifest.
	more string
}

const commitID = "0123456789abcdef0123456789abcdef01234567"

func (c commit) revision() v1alpha1.Revision {
	return v1alpha1.Revision{Repository: c.URL(), Ref: "v1.0.0", Commit: commitID, Path: "deploy", Tree: "tree-of-" + c.namespace}
}

func (c commit) URL() string { return "https://git.example.org/" + c.namespace }

func (c commit) Resolve(_ context.Context, ref git.Ref, _ string) (v1alpha1.Revision, error) {
	switch {
	case c.err != nil:
		return v1alpha1.Revision{}, c.err
	case ref.Tag == "v1.0.0" || ref.Commit == commitID:
		return c.revision(), nil
	case ref.Tag == "v2.0.0":
		other := c.revision()
		other.Ref, other.Commit, other.Tree = "v2.0.0", strings.Repeat("f", 40), "another-tree"
		return other, nil
	}
	return v1alpha1.Revision{}, fmt.Errorf("tag %q: %w", ref.Tag, git.ErrRefNotFound)
}

func (c commit) Recall(ctx context.Context, recorded v1alpha1.Revision, path string) (v1alpha1.Revision, error) {
	return c.Resolve(ctx, git.Ref{Commit: recorded.Commit}, path)
}

func (c commit) Ancestors(context.Context, v1alpha1.Revision, int, ...string) ([]revision.Ancestor, error) {
	return []revision.Ancestor{{Commit: commitID, Differs: true}}, c.err
}

func (c commit) Materialise(_ context.Context, _ v1alpha1.Revision, dir string) error {
	if c.err != nil {
		return c.err
	}
	if err := os.MkdirAll(filepath.Join(dir, "deploy"), 0o755); err != nil {
		return err
	}
	manifests, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(manifests), "SHOP", c.namespace) + "\n---\n" + c.more
	return os.WriteFile(filepath.Join(dir, "deploy", "shop.yaml"), []byte(text), 0o644)
}

func (c commit) Close() error { return nil }

// creator stands in for pkg/apply, which has tests of its own: it creates what is absent, and calls a workload healthy when the
// claims that are named for it are bound, unless it is the sick one.
type creator struct {
	client.Client
	sick string
	// refused is the name of the object that the API server does not take.
	refused string
}

func (a creator) Put(ctx context.Context, o *unstructured.Unstructured) error {
	if o.GetName() == a.refused {
		return &apply.ObjectError{Key: object.KeyOf(o), Err: errors.New("the webhook is not up")}
	}
	if err := a.Create(ctx, o.DeepCopy()); err != nil && !apierrors.IsAlreadyExists(err) {
		return &apply.ObjectError{Key: object.KeyOf(o), Err: err}
	}
	return nil
}

func (a creator) Usable(context.Context, *unstructured.Unstructured) (bool, error) { return true, nil }

func (a creator) Health(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]apply.Status, error) {
	out := map[object.Key]apply.Status{}
	for _, o := range objects {
		out[object.KeyOf(o)] = apply.Status{Health: apply.Current}
		if o.GetName() == a.sick {
			out[object.KeyOf(o)] = apply.Status{Health: apply.InProgress, Message: "crashes"}
			continue
		}
		pods, err := object.Pods(o)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			for _, name := range pod.Claims {
				claim := &corev1.PersistentVolumeClaim{}
				if err := a.Get(ctx, client.ObjectKey(name), claim); err != nil {
					return nil, err
				}
				if claim.Status.Phase != corev1.ClaimBound {
					out[object.KeyOf(o)] = apply.Status{Health: apply.InProgress, Message: "waits for " + name.String()}
				}
			}
		}
	}
	return out, nil
}

func (a creator) StampRevision(ctx context.Context, policy types.NamespacedName, revision v1alpha1.Revision) error {
	p := &v1alpha1.ProtectionPolicy{}
	if err := a.Get(ctx, policy, p); err != nil {
		return err
	}
	before := p.DeepCopy()
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationRevision, revision.Commit)
	return a.Patch(ctx, p, client.MergeFrom(before))
}

// bench is a cluster with a vault, a commit and a restore to be reconciled.
type bench struct {
	*cluster
	store      *storetest.Memory
	vault      *engine.Vault
	commit     commit
	reconciler *Reconciler
	request    ctrl.Request
	events     *record.FakeRecorder
	maxMovers  int
	sick       string
	refused    string
}

func newBench(ctx context.Context, t *testing.T, c *cluster, namespace string) *bench {
	t.Helper()
	b := &bench{cluster: c, store: storetest.NewMemory(), commit: commit{namespace: namespace}, events: record.NewFakeRecorder(1000), maxMovers: 2}
	identity, err := age.GenerateX25519Identity()
	c.must(err)
	b.vault, err = engine.Create(ctx, b.store, identity.Recipient())
	c.must(err)
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SystemNamespace}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}, Provisioner: "stand-in"},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "wait"}, Provisioner: "stand-in", VolumeBindingMode: &wait},
	} {
		if err := c.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	c.must(c.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "key-" + namespace},
		Data:       map[string][]byte{"identity": []byte(identity.String())},
	}))
	c.must(c.Create(ctx, &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: v1alpha1.VaultSpec{
			S3: &v1alpha1.S3Location{Bucket: "bucket"}, KeySecretRef: v1alpha1.SecretReference{Name: "key-" + namespace},
		},
	}))
	b.start()
	return b
}

// save writes the point of the commit into the vault.
func (b *bench) save(ctx context.Context) point.Record {
	b.t.Helper()
	ns := b.commit.namespace
	taken := time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)
	r := point.Record{
		Version: point.Version, ID: "20260301-040000-1a2b3c4d", Application: ns + "/shop", Revision: b.commit.revision(),
		Trigger: v1alpha1.TriggerManual, Taken: taken, Completed: taken.Add(time.Minute), Residual: &point.Residual{Document: "20260301-040000-1a2b3c4d", Secrets: 1},
	}
	for _, claim := range []string{"cache", "data-db-0", "wal-db-0"} {
		r.Volumes = append(r.Volumes, point.Volume{
			Namespace: ns, Claim: claim, Snapshot: "snapshot-of-" + claim, ContentRoot: "content-" + claim, MetaRoot: "meta-" + claim,
			Capacity: 1 << 30, Bytes: 100, Files: 2,
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		})
	}
	r.Residual.Objects = 2
	data, err := residual.Encode(residual.Set{Version: residual.Version, Secrets: []corev1.Secret{
		{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "login"}, Data: map[string][]byte{"password": []byte("secret")}},
	}, Objects: []unstructured.Unstructured{
		{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": ns, "name": "by-hand"}}},
		{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"namespace": ns, "name": "by-hand"},
			"spec": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "a"}}, "template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "a"}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "a", "image": "a"}}},
			}},
		}},
	}})
	b.must(err)
	b.must(catalog.PutResidual(ctx, b.vault, r.ID, data))
	b.must(catalog.Put(ctx, b.vault, r))
	return r
}

// ask makes the Restore.
func (b *bench) ask(ctx context.Context, from v1alpha1.RestoreFrom, edits ...func(*v1alpha1.Restore)) {
	b.t.Helper()
	from.Vault = b.commit.namespace
	restore := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "restore-" + b.commit.namespace},
		Spec: v1alpha1.RestoreSpec{From: from, Source: v1alpha1.GitSource{URL: b.commit.URL(), Path: "deploy"}, Verify: v1alpha1.VerifyReadback,
			Timeout: &metav1.Duration{Duration: time.Minute}},
	}
	for _, edit := range edits {
		edit(restore)
	}
	b.must(b.Create(ctx, restore))
	b.request = ctrl.Request{NamespacedName: client.ObjectKeyFromObject(restore)}
}

// start begins a new life of the controller, which remembers nothing.
func (b *bench) start() { b.startWith(b.Client) }

func (b *bench) startWith(c client.Client) {
	b.reconciler = New(Deps{
		Client: c, Reader: c, Kube: k8sfake.NewClientset(), Events: b.events, Image: "lockstep",
		Movers: &movers.Room{Reader: c, Client: c, Limits: movers.Limits{Max: b.maxMovers, PerNode: b.maxMovers}},
		Now:    func() time.Time { return b.now },
		Vaults: &vaults.Opener{Reader: c, OpenStore: func(context.Context, string, backend.Credentials) (store.Store, error) {
			return b.store, nil
		}},
		OpenRepository: func(string, git.Options) (Repository, error) { return b.commit, nil },
		NewApplier:     func(types.NamespacedName) Applier { return creator{c, b.sick, b.refused} },
	})
}

func (b *bench) restore(ctx context.Context) *v1alpha1.Restore {
	b.t.Helper()
	restore := &v1alpha1.Restore{}
	b.must(b.Get(ctx, b.request.NamespacedName, restore))
	return restore
}

// run reconciles, with the stand-ins between, until the condition holds. Time passes as the controller asks for it.
func (b *bench) run(ctx context.Context, until func(*v1alpha1.Restore) bool) {
	b.t.Helper()
	ctx = ctrl.LoggerInto(ctx, logr.Discard())
	for range 200 {
		result, err := b.reconciler.Reconcile(ctx, b.request)
		if err != nil {
			b.t.Fatalf("reconciling: %v", err)
		}
		if until(b.restore(ctx)) {
			return
		}
		b.settle(ctx)
		b.now = b.now.Add(result.RequeueAfter)
	}
	data, _ := json.MarshalIndent(b.restore(ctx).Status, "", " ")
	b.t.Fatalf("the restore does not get there: %s", data)
}

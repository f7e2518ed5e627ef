package populator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Reasons in AnnotationPopulation and in events.
const (
	// reasonUnknown: what the claim is to begin with is not known now. It stays pending, and is asked again.
	reasonUnknown = "Unknown"
	// reasonUndecided: the vault holds data of the claim, and none that fits the commit. A person must choose.
	reasonUndecided = "Undecided"
	// reasonRefused: the claim cannot have what it asks for.
	reasonRefused = "Refused"
	// reasonWaiting: the class waits for a pod to have a place.
	reasonWaiting = "Waiting"
	// reasonRestoring: a Restore fills the claim, reasonStartsEmpty: gives it a volume without data.
	reasonRestoring   = "Restoring"
	reasonStartsEmpty = "StartsEmpty"
	// reasonStopped: that Restore needs a person.
	reasonStopped = "Stopped"
	// reasonPopulated: the claim is bound to the volume that a Restore made for it.
	reasonPopulated = "Populated"
	// reasonBypassed: the claim is bound to a volume that no Restore made for it.
	reasonBypassed = "Bypassed"
)

// Troubled tells whether a value of AnnotationPopulation is one that people should look after.
func Troubled(population string) bool {
	reason, _, _ := strings.Cut(population, ":")
	switch reason {
	case reasonUnknown, reasonUndecided, reasonRefused, reasonStopped, reasonBypassed:
		return true
	}
	return false
}

// verdict is what becomes of a claim.
type verdict struct {
	reason, message string
	// restore is to be made; after is when to look again, at the latest.
	restore *v1alpha1.Restore
	after   time.Duration
}

func unknown(format string, args ...any) verdict {
	return verdict{reason: reasonUnknown, message: fmt.Sprintf(format, args...), after: again}
}

// judge decides what becomes of a claim. An error means that the API server could not be asked.
func (r *Reconciler) judge(ctx context.Context, claim *corev1.PersistentVolumeClaim) (verdict, error) {
	if claim.Status.Phase == corev1.ClaimBound {
		return r.bound(ctx, claim)
	}
	if ns := claim.Spec.DataSourceRef.Namespace; ns != nil && *ns != claim.Namespace {
		return verdict{reason: reasonRefused, message: fmt.Sprintf("the policy must be in the claim's own namespace, not in %q", *ns)}, nil
	}
	mine, err := r.mine(ctx, claim)
	if err != nil || mine.reason != "" {
		return mine, err
	}
	if claim.Spec.VolumeName != "" || claim.Status.Phase == corev1.ClaimLost {
		return verdict{}, nil // reserved, by a Restore or by a person
	}
	running, err := r.restoreOver(ctx, claim)
	if err != nil {
		return verdict{}, err
	}
	if running.fills {
		return verdict{after: again}, nil
	}
	if running.begins != "" {
		return unknown("restore %s is under way, and has not said yet which claims it fills", running.begins), nil
	}
	policy := &v1alpha1.ProtectionPolicy{}
	key := client.ObjectKey{Namespace: claim.Namespace, Name: policyOf(claim)}
	if err := r.Reader.Get(ctx, key, policy); apierrors.IsNotFound(err) {
		return unknown("there is no ProtectionPolicy %q", key), nil
	} else if err != nil {
		return verdict{}, fmt.Errorf("reading policy %q: %w", key, err)
	}
	at, err := r.deploying(ctx, claim, policy, running.revision)
	if unnamed := (*unnamedError)(nil); errors.As(err, &unnamed) {
		return unknown("%v", err), nil
	} else if err != nil {
		return verdict{}, err
	}
	return r.begin(ctx, claim, r.find(ctx, claim, policy, at))
}

// bound looks where the volume of a bound claim came from. It proves nothing about volumes that were there before the claim.
func (r *Reconciler) bound(ctx context.Context, claim *corev1.PersistentVolumeClaim) (verdict, error) {
	pv := &corev1.PersistentVolume{}
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv); err != nil {
		return verdict{}, client.IgnoreNotFound(err)
	}
	if pv.Annotations[v1alpha1.AnnotationHydrated] != "" {
		return verdict{reason: reasonPopulated, message: "the claim has the volume that was made for it"}, nil
	}
	by := pv.Annotations["pv.kubernetes.io/provisioned-by"]
	why := "its volume was not made by Lockstep"
	if by == localPath {
		why = "rancher's local-path provisioner takes no notice of dataSourceRef"
	} else if by != "" {
		why = fmt.Sprintf("the provisioner %s made its volume, so it takes no notice of dataSourceRef", by)
	}
	return verdict{reason: reasonBypassed, message: why + ": nothing of the vault is in it. If there should be, stop its workload, delete " +
		"the claim and restore it with `lockstep restore`"}, nil
}

// localPath provisions each claim of its classes without a look at the claim's source: provisioner.go of
// rancher/local-path-provisioner.
const localPath = "rancher.io/local-path"

// nameOf names the Restore of a claim. It follows from the claim, so that a controller that dies makes it once.
func nameOf(claim *corev1.PersistentVolumeClaim) string { return "populate-" + string(claim.UID) }

// mine is where the claim's own Restore stands; empty if there is none.
func (r *Reconciler) mine(ctx context.Context, claim *corev1.PersistentVolumeClaim) (verdict, error) {
	restore := &v1alpha1.Restore{}
	err := r.Reader.Get(ctx, client.ObjectKey{Namespace: claim.Namespace, Name: nameOf(claim)}, restore)
	if err != nil {
		return verdict{}, client.IgnoreNotFound(err)
	}
	why := restore.Annotations[v1alpha1.AnnotationPopulation]
	if conditions.IsStalled(restore) {
		return verdict{reason: reasonStopped, message: fmt.Sprintf("restore %s/%s: %s", restore.Namespace, restore.Name,
			conditions.GetMessage(restore, v1alpha1.ConditionReady)), after: again}, nil
	}
	reason, message, _ := strings.Cut(why, ": ")
	return verdict{reason: reason, message: message, after: again}, nil
}

// over is what an unfinished Restore of a commit means for a claim.
type over struct {
	// fills says that it fills the claim itself; begins names one that has not planned yet, so that it may.
	fills  bool
	begins string
	// revision is the commit that it deploys in the claim's namespace, nil if it does none there.
	revision *v1alpha1.Revision
}

// restoreOver finds the Restores that are under way. They go first: what they fill is theirs.
func (r *Reconciler) restoreOver(ctx context.Context, claim *corev1.PersistentVolumeClaim) (over, error) {
	var list v1alpha1.RestoreList
	if err := r.Reader.List(ctx, &list); err != nil {
		return over{}, fmt.Errorf("listing restores: %w", err)
	}
	var found over
	for i := range list.Items {
		restore := &list.Items[i]
		if restore.Status.CompletedAt != nil || restore.DeletionTimestamp != nil || restore.Name == nameOf(claim) {
			continue
		}
		if len(restore.Spec.Volumes) > 0 {
			name := claim.Namespace + "/" + claim.Name
			found.fills = found.fills || !conditions.IsStalled(restore) && slices.ContainsFunc(restore.Spec.Volumes,
				func(v v1alpha1.VolumeRequest) bool { return cmp.Or(v.As, v.Claim) == name })
			continue
		}
		if len(restore.Status.Volumes)+len(restore.Status.Workloads) == 0 && !conditions.IsStalled(restore) {
			found.begins = restore.Namespace + "/" + restore.Name
		}
		for _, v := range restore.Status.Volumes {
			found.fills = found.fills || v.Namespace == claim.Namespace && v.Claim == claim.Name
			if v.Namespace == claim.Namespace {
				found.revision = restore.Status.Revision
			}
		}
		for _, l := range restore.Status.Workloads {
			if l.Namespace == claim.Namespace {
				found.revision = restore.Status.Revision
			}
		}
	}
	return found, nil
}

// answer is what a vault says of a claim: a point that holds its data, or why it begins empty; else where it stands.
type answer struct {
	vault  string
	commit string
	point  *point.Record
	empty  string
	other  verdict
}

// find asks the vault. Only what the vault itself has proven leads to an empty claim.
func (r *Reconciler) find(ctx context.Context, claim *corev1.PersistentVolumeClaim, policy *v1alpha1.ProtectionPolicy, at target) answer {
	a := answer{vault: policy.Spec.Vaults[0], commit: at.Commit}
	if why, ok := claim.Annotations[v1alpha1.AnnotationStartEmpty]; ok {
		a.empty = "a person asked for it: " + why
		return a
	}
	vault, err := r.Vaults.Open(ctx, a.vault)
	if err != nil {
		a.other = unknown("%v", err)
		return a
	}
	query := match.Query{Revision: at.Revision, Application: claim.Namespace + "/" + policy.Name}
	if a.fits(ctx, vault, claim, query) {
		return a
	}
	newest, found := a.newest(ctx, vault, query.Application, r.Now())
	if !found {
		return a
	}
	if at.Tree == "" {
		if query.Revision.Tree, err = r.Trees.Of(ctx, at.Revision, at.secret); err != nil {
			a.other = unknown("vault %q holds no point of commit %s, and whether one of another commit fits, which deploys the same, only Git can tell: %v. "+
				"Where Lockstep cannot read the repository, write what is deployed onto policy %q, with the annotations %s, %s, %s and %s",
				a.vault, revision.Short(at.Commit), err, policy.Name,
				v1alpha1.AnnotationRepository, v1alpha1.AnnotationPath, v1alpha1.AnnotationRevision, v1alpha1.AnnotationTree)
			return a
		}
		if a.fits(ctx, vault, claim, query) {
			return a
		}
	}
	a.elsewhere(newest, claim)
	return a
}

// fits looks for the point that fits the revision. It says whether that settles the answer.
func (a *answer) fits(ctx context.Context, vault *volume.Vault, claim *corev1.PersistentVolumeClaim, query match.Query) bool {
	choice, err := catalog.Find(ctx, vault, query, nil)
	absent := (*match.AbsentError)(nil)
	switch {
	case errors.As(err, &absent):
		return false
	case err != nil:
		a.other = unknown("%v", err)
	case holds(choice.Record, claim):
		a.point = &choice.Record
	default:
		a.empty = fmt.Sprintf("point %s of the commit holds no data of it", choice.Record.ID)
	}
	return true
}

// newest looks for the newest point of the application, whatever its commit. Where there is none, that settles the answer.
func (a *answer) newest(ctx context.Context, vault *volume.Vault, application string, now time.Time) (point.Record, bool) {
	before := now.Add(24 * time.Hour) // the clocks of two clusters may differ
	choice, err := catalog.Find(ctx, vault, match.Query{Before: &before, Application: application}, nil)
	absent := (*match.AbsentError)(nil)
	switch {
	case errors.As(err, &absent):
		a.empty = fmt.Sprintf("vault %q has answered and holds no point of application %s", a.vault, application)
	case err != nil:
		a.other = unknown("%v", err)
	default:
		return choice.Record, true
	}
	return point.Record{}, false
}

// elsewhere answers where no point fits the commit: only if the newest of the application holds no data of the claim either, the
// claim begins for the first time.
func (a *answer) elsewhere(newest point.Record, claim *corev1.PersistentVolumeClaim) {
	if !holds(newest, claim) {
		a.empty = fmt.Sprintf("vault %q has answered and holds no point of commit %s, and the newest of the application, %s, no data of it",
			a.vault, revision.Short(a.commit), newest.ID)
		return
	}
	a.other = verdict{reason: reasonUndecided, after: again, message: fmt.Sprintf("vault %q holds no point of commit %s, but point %s of commit %s "+
		"holds data of it, whose schema may be another: take that with `lockstep restore --point %s --volume %s/%s`, or let the claim begin "+
		"empty with the annotation %s", a.vault, revision.Short(a.commit), newest.ID, revision.Short(newest.Revision.Commit),
		newest.ID, claim.Namespace, claim.Name, v1alpha1.AnnotationStartEmpty)}
}

func holds(r point.Record, claim *corev1.PersistentVolumeClaim) bool {
	for _, v := range r.Volumes {
		if v.Namespace == claim.Namespace && v.Claim == claim.Name {
			return true
		}
	}
	return false
}

// begin asks for a Restore of nothing but the claim, when the time has come: where the claim is to begin empty, once a pod has a
// place, as for any claim; where it has data, also if none has one for long.
func (r *Reconciler) begin(ctx context.Context, claim *corev1.PersistentVolumeClaim, a answer) (verdict, error) {
	if a.other.reason != "" {
		return a.other, nil
	}
	waits, err := r.waitsForConsumer(ctx, claim)
	if err != nil {
		return verdict{}, err
	}
	left := patience - r.Now().Sub(claim.CreationTimestamp.Time)
	if waits && (a.point == nil || left > 0) {
		return verdict{reason: reasonWaiting, message: "for a pod that mounts the claim to have a place", after: min(max(left, time.Second), again)}, nil
	}
	v := verdict{reason: reasonStartsEmpty, message: a.empty, after: again}
	from := v1alpha1.RestoreFrom{Vault: a.vault, Commit: a.commit}
	if a.point != nil {
		v.reason, v.message = reasonRestoring, fmt.Sprintf("from point %s of commit %s", a.point.ID, revision.Short(a.point.Revision.Commit))
		from = v1alpha1.RestoreFrom{Vault: a.vault, RestorePoint: a.point.ID}
	}
	v.restore = &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: claim.Namespace, Name: nameOf(claim),
			Annotations: map[string]string{v1alpha1.AnnotationPopulation: v.reason + ": " + v.message},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Name: claim.Name, UID: claim.UID,
			}},
		},
		Spec: v1alpha1.RestoreSpec{
			From: from, Verify: v1alpha1.VerifyReadback,
			Volumes: []v1alpha1.VolumeRequest{{Claim: claim.Namespace + "/" + claim.Name, Empty: a.point == nil}},
		},
	}
	return v, nil
}

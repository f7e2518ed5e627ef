package v1alpha1

import "time"

// SystemNamespace is where the controller and its movers run and where the Secrets of Vaults are.
const SystemNamespace = "lockstep-system"

// The running revision of an application that no GitOps engine owns is kept in annotations of its ProtectionPolicy.
// The Direct engine writes them when everything of the commit has been applied; a pipeline that deploys by other means
// may write them itself, after its deploy.
const (
	// AnnotationRepository is the URL of the Git repository, without credentials.
	AnnotationRepository = "lockstep.dev/repository"
	// AnnotationPath is the directory in the repository that was deployed, "." for its root.
	AnnotationPath = "lockstep.dev/path"
	// AnnotationRevision is "<branch or tag>@sha1:<full commit>", or "sha1:<full commit>".
	AnnotationRevision = "lockstep.dev/revision"
	// AnnotationTree is the tree of the path at that commit, as of Revision.
	AnnotationTree = "lockstep.dev/tree"
	// AnnotationApprovedRemoval on a ProtectionPolicy names the sets of points that somebody allowed to go at once: digests of
	// status.retention, separated by commas.
	AnnotationApprovedRemoval = "lockstep.dev/approved-removal"
	// AnnotationDeploying is the revision that is being deployed, as JSON, from before its first object is applied until the
	// others say that it runs.
	AnnotationDeploying = "lockstep.dev/deploying"
)

// A deploy that may touch data waits for the restore point of what runs before it.
const (
	// AnnotationPreDeploy on an object of a GitOps engine with the value PreDeployRequired asks that nothing is deployed without a
	// restore point. On a Kustomization any other value is a mistake, and lets nothing be deployed.
	AnnotationPreDeploy = "lockstep.dev/pre-deploy"
	// PreDeployRequired is the value of AnnotationPreDeploy.
	PreDeployRequired = "required"
	// AnnotationPreDeployTimeout on a Kustomization is how long a deploy waits for its point, as a duration ("30m"); PreDeployTimeout
	// by default.
	AnnotationPreDeployTimeout = "lockstep.dev/pre-deploy-timeout"
	// AnnotationApprovedRevision on such an object names the revision that may be deployed, because the point before it is complete:
	// in the words of Flux for a Kustomization, the full commits of all sources, separated by commas, for an Application. On a
	// Kustomization only the controller may write it: an admission policy refuses anybody else.
	AnnotationApprovedRevision = "lockstep.dev/approved-revision"
	// AnnotationOnBackupFailure on such an object says what becomes of a deploy whose point failed: BackupFailureBlock, the default,
	// or BackupFailureAllow.
	AnnotationOnBackupFailure = "lockstep.dev/on-backup-failure"
	// AnnotationWaiting on a Kustomization says, as JSON, what is not deployed yet and why. It is there while the gate is closed.
	AnnotationWaiting = "lockstep.dev/waiting"
)

// Values of AnnotationOnBackupFailure.
const (
	BackupFailureBlock = "Block"
	BackupFailureAllow = "Allow"
)

// A claim whose dataSourceRef names a ProtectionPolicy begins with the data of the revision that is being deployed.
const (
	// AnnotationPopulation on such a claim says where it stands: "<reason>: <message>".
	AnnotationPopulation = "lockstep.dev/population"
	// AnnotationStartEmpty on such a claim lets it begin empty, whatever the vault holds; its value is the reason.
	AnnotationStartEmpty = "lockstep.dev/start-empty"
)

// PreDeployTimeout is how long a deploy waits for its point if no annotation says otherwise.
const PreDeployTimeout = time.Hour

const (
	// AnnotationExclude on a claim, or on an object that Git does not hold, keeps it out of every restore point; its value is
	// the reason.
	AnnotationExclude = "lockstep.dev/exclude"
	// AnnotationScaledBy on a workload names the restore point for which it is scaled to zero, and AnnotationReplicas how many replicas it
	// had. Both are gone when it has them back.
	AnnotationScaledBy = "lockstep.dev/scaled-by"
	// AnnotationReplicas stands beside AnnotationScaledBy.
	AnnotationReplicas = "lockstep.dev/replicas"
	// AnnotationRestoredFrom on a claim, or on an object that Git does not hold, names the restore point that it came from.
	AnnotationRestoredFrom = "lockstep.dev/restored-from"
	// AnnotationOwners on an object that came out of a restore point names who owned it: "<kind>/<name>", separated by commas.
	AnnotationOwners = "lockstep.dev/owners"
	// AnnotationBootstrap on an object that came out of a restore point says which object of an engine needs it: it is not the
	// application's own, and comes back only where its namespace is.
	AnnotationBootstrap = "lockstep.dev/bootstrap"
	// AnnotationReconcileAt on any kind asks for a reconciliation now; its value is any new text.
	AnnotationReconcileAt = "lockstep.dev/reconcile-at"

	// AnnotationRelease on a finished Restore asks to give back what it still holds of Flux or Argo CD, so that they follow
	// Git's branch again; its value is any text.
	AnnotationRelease = "lockstep.dev/release"
	// AnnotationHeldBy on an object of Flux or Argo CD names the Restore that pinned or holds it: "<namespace>/<name>". The
	// label LabelRestore beside it holds the Restore's UID.
	AnnotationHeldBy = "lockstep.dev/held-by"
	// AnnotationHeld beside it says, as JSON, what was there before, which is given back.
	AnnotationHeld = "lockstep.dev/held"

	// AnnotationReclaimPolicy on a PersistentVolume that is being rebound or set aside holds the reclaim policy that it had.
	AnnotationReclaimPolicy = "lockstep.dev/reclaim-policy"
	// AnnotationTarget on a staging claim and on its volume names the claim it hydrates: "<namespace>/<name>".
	AnnotationTarget = "lockstep.dev/target"
	// AnnotationHydrated on a staging claim and on its volume holds the digest of the tree that was written and verified:
	// "<content root>/<metadata root>". It is written before the mover is removed, and without it nothing is rebound.
	AnnotationHydrated = "lockstep.dev/hydrated"

	// AnnotationSetAsideClaim on a PersistentVolume that a Restore has set aside names the claim that it was of:
	// "<namespace>/<name>".
	AnnotationSetAsideClaim = "lockstep.dev/set-aside-claim"
	// AnnotationSetAsideBy on such a volume names the Restore, "<namespace>/<name>"; LabelSetAside holds its UID.
	AnnotationSetAsideBy = "lockstep.dev/set-aside-by"
)

const (
	// LabelManagedBy marks the temporary objects of a backup or restore; its value is always "lockstep".
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// LabelRestorePoint holds the UID of the RestorePoint that a temporary object serves.
	LabelRestorePoint = "lockstep.dev/restorepoint-uid"
	// LabelRestore holds the UID of the Restore that a temporary object or a reserved claim serves.
	LabelRestore = "lockstep.dev/restore-uid"
	// LabelSetAside marks a PersistentVolume that a Restore has set aside, with the Restore's UID.
	LabelSetAside = "lockstep.dev/set-aside"
	// LabelCopy marks a mover that copies a RestorePoint from vault to vault, with the ID of the point.
	LabelCopy = "lockstep.dev/copy"
	// LabelPolicy holds the name of the ProtectionPolicy that made a RestorePoint.
	LabelPolicy = "lockstep.dev/policy"
	// LabelVault holds the UID of the Vault that a Job prunes.
	LabelVault = "lockstep.dev/vault-uid"
	// LabelApplicationName marks every object that the Direct engine applied from Git, with the name of its application.
	LabelApplicationName = "lockstep.dev/name"
	// LabelApplicationNamespace is the namespace of LabelApplicationName.
	LabelApplicationNamespace = "lockstep.dev/namespace"
)

// Finalizer is set on kinds that have temporary objects to remove.
const Finalizer = "lockstep.dev/finalizer"

// FinalizerCopies is set on a RestorePoint that further vaults do not hold yet: the object stays until they do.
const FinalizerCopies = "lockstep.dev/copies"

// FieldManager is the name under which Lockstep applies objects.
const FieldManager = "lockstep"

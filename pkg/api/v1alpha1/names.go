package v1alpha1

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
	// AnnotationTree is the Git tree hash of the path at that commit.
	AnnotationTree = "lockstep.dev/tree"
)

const (
	// AnnotationExclude on a claim keeps it out of every restore point; its value is the reason.
	AnnotationExclude = "lockstep.dev/exclude"
	// AnnotationRestoredFrom on a claim names the restore point that its data came from.
	AnnotationRestoredFrom = "lockstep.dev/restored-from"
	// AnnotationOwners on a Secret that came out of a restore point names who owned it: "<kind>/<name>", separated by commas.
	AnnotationOwners = "lockstep.dev/owners"
	// AnnotationReconcileAt on any kind asks for a reconciliation now; its value is any new text.
	AnnotationReconcileAt = "lockstep.dev/reconcile-at"

	// AnnotationReclaimPolicy on a PersistentVolume that is being rebound holds the reclaim policy to give back.
	AnnotationReclaimPolicy = "lockstep.dev/reclaim-policy"
	// AnnotationTarget on a staging claim and on its volume names the claim it hydrates: "<namespace>/<name>".
	AnnotationTarget = "lockstep.dev/target"
	// AnnotationHydrated on a staging claim and on its volume holds the digest of the tree that was written and verified:
	// "<content root>/<metadata root>". It is written before the mover is removed, and without it nothing is rebound.
	AnnotationHydrated = "lockstep.dev/hydrated"
)

const (
	// LabelManagedBy marks the temporary objects of a backup or restore; its value is always "lockstep".
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// LabelRestorePoint holds the UID of the RestorePoint that a temporary object serves.
	LabelRestorePoint = "lockstep.dev/restorepoint-uid"
	// LabelRestore holds the UID of the Restore that a temporary object or a reserved claim serves.
	LabelRestore = "lockstep.dev/restore-uid"
	// LabelPolicy holds the name of the ProtectionPolicy that made a RestorePoint.
	LabelPolicy = "lockstep.dev/policy"
	// LabelApplicationName marks every object that the Direct engine applied from Git, with the name of its application.
	LabelApplicationName = "lockstep.dev/name"
	// LabelApplicationNamespace is the namespace of LabelApplicationName.
	LabelApplicationNamespace = "lockstep.dev/namespace"
)

// Finalizer is set on kinds that have temporary objects to remove.
const Finalizer = "lockstep.dev/finalizer"

// FieldManager is the name under which Lockstep applies objects.
const FieldManager = "lockstep"

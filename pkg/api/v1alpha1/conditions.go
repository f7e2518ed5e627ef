package v1alpha1

// Condition types. Ready has normal polarity; Reconciling and Stalled are present only while true, as kstatus wants.
const (
	// ConditionReady is True only when the whole promise of the kind holds. False: it does not. Unknown: not known yet, or not
	// knowable now (a store that does not answer, a listing cut short).
	ConditionReady = "Ready"
	// ConditionReconciling is True while the controller is working towards Ready.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when nothing will change without a person: the reason says what to mend.
	ConditionStalled = "Stalled"
	// ConditionObjectiveMet of a ProtectionPolicy is True while its newest good point is no older than its RPO, Unknown as long as
	// the first may still be made in time, and absent without an RPO.
	ConditionObjectiveMet = "ObjectiveMet"
	// ConditionCopiesBehind of a ProtectionPolicy is True while a further vault lacks a Ready point and is not simply about to get it, False
	// while none does, and absent with one vault only.
	ConditionCopiesBehind = "CopiesBehind"
	// ConditionDeployGate of a ProtectionPolicy is True while its points are taken before each deploy, as was asked for, also while a
	// deploy waits for one. False: a deploy is blocked, or nothing holds deploys. It is absent where nobody asks for that.
	ConditionDeployGate = "DeployGate"
	// ConditionRetentionRefused of a ProtectionPolicy is True while its retention would remove more points at once than it may without a
	// person's word, so that none is removed. Unknown: not everything is known that decides, so that none is removed either. It is absent
	// without a retention.
	ConditionRetentionRefused = "RetentionRefused"
)

// Reasons that several kinds use.
const (
	// ReasonProgressing: work is under way; the message says which.
	ReasonProgressing = "Progressing"
	// ReasonSucceeded: the work is done and verified.
	ReasonSucceeded = "Succeeded"
	// ReasonVaultNotReady: a Vault that is needed is absent or not Ready.
	ReasonVaultNotReady = "VaultNotReady"
	// ReasonInvalidSpec: the object cannot mean what it says; the message says why.
	ReasonInvalidSpec = "InvalidSpec"
)

// Reasons of Vault.
const (
	// ReasonOpened: the store answers, the key opens the vault.
	ReasonOpened = "Opened"
	// ReasonKeyMissing: keySecretRef names no Secret, or one without an identity.
	ReasonKeyMissing = "KeyMissing"
	// ReasonWrongKey: the key does not open this vault.
	ReasonWrongKey = "WrongKey"
	// ReasonCredentialsMissing: credentialsSecretRef names no Secret, or an incomplete one.
	ReasonCredentialsMissing = "CredentialsMissing"
	// ReasonNotInitialised: the store answers and holds no vault. Lockstep never makes one by itself: an emptied or
	// mistyped bucket must not look like a new start.
	ReasonNotInitialised = "NotInitialised"
	// ReasonUnreachable: the store does not answer, or refuses; what it holds is unknown.
	ReasonUnreachable = "Unreachable"
	// ReasonNotImmutable: spec.immutability asks for what the store cannot do, or the credentials may not; the message says how to
	// mend it.
	ReasonNotImmutable = "NotImmutable"
	// ReasonVaultReplaced: another vault stands where this one stood.
	ReasonVaultReplaced = "VaultReplaced"
	// ReasonDamaged: the vault was altered or is incomplete.
	ReasonDamaged = "Damaged"
)

// Reasons of ProtectionPolicy.
const (
	// ReasonProtecting: the policy selects volumes and its vault is ready.
	ReasonProtecting = "Protecting"
	// ReasonNoVolumes: the policy selects no claim.
	ReasonNoVolumes = "NoVolumes"
	// ReasonSuspended: spec.suspend is set.
	ReasonSuspended = "Suspended"

	// ReasonWithinObjective: the newest good point is no older than the RPO.
	ReasonWithinObjective = "WithinObjective"
	// ReasonObjectiveMissed: the newest good point is older than the RPO, or none was made in time.
	ReasonObjectiveMissed = "ObjectiveMissed"
	// ReasonNoPointYet: no point was made yet, and the RPO, counted from the policy's creation, is not over.
	ReasonNoPointYet = "NoPointYet"
	// ReasonCopiesCurrent: every further vault holds all Ready points, or is about to get the last.
	ReasonCopiesCurrent = "CopiesCurrent"
	// ReasonCopiesMissing: a further vault lacks points; the message says which and how many.
	ReasonCopiesMissing = "CopiesMissing"
	// ReasonClockWrong: within the RPO there is no good point but of a time to come, whose age is not known.
	ReasonClockWrong = "ClockWrong"

	// ReasonTooManyAtOnce: more points would be removed at once than may be without a person's word.
	ReasonTooManyAtOnce = "TooManyAtOnce"
	// ReasonFactsUnknown: a vault, Git or a Restore does not say yet what decides which points are kept.
	ReasonFactsUnknown = "FactsUnknown"
	// ReasonWithinLimits: the retention does its work.
	ReasonWithinLimits = "WithinLimits"
)

// Reasons of the condition DeployGate, and of the events about a Kustomization that waits.
const (
	// ReasonGateOpen: no deploy waits.
	ReasonGateOpen = "GateOpen"
	// ReasonTakingPoint: a deploy waits for its point, which is being taken.
	ReasonTakingPoint = "TakingPoint"
	// ReasonBackupFailed: a deploy is blocked because its point has failed; the message names it.
	ReasonBackupFailed = "BackupFailed"
	// ReasonTimedOut: a deploy is blocked because its point was not complete in time.
	ReasonTimedOut = "TimedOut"
	// ReasonNoPolicy: a deploy is blocked because no ProtectionPolicy says what to save.
	ReasonNoPolicy = "NoPolicy"
	// ReasonInvalidAnnotation: a deploy is blocked because an annotation of the gate cannot be understood.
	ReasonInvalidAnnotation = "InvalidAnnotation"
	// ReasonNoCommit: a deploy is blocked because its source names no Git commit.
	ReasonNoCommit = "NoCommit"
	// ReasonNotGated: the policy asks for a point before each deploy, and the Kustomization has no annotation that makes it wait.
	ReasonNotGated = "NotGated"
	// ReasonApproved, of an event: the deploy may go on.
	ReasonApproved = "DeployApproved"
	// ReasonApprovedWithoutPoint, of an event: the deploy may go on though its point is missing, because an annotation allows it.
	ReasonApprovedWithoutPoint = "DeployApprovedWithoutPoint"
)

// Reasons of RestorePoint.
const (
	// ReasonPolicyNotFound: spec.policyRef names no ProtectionPolicy of the namespace.
	ReasonPolicyNotFound = "PolicyNotFound"
	// ReasonRevisionUnknown: nothing says which commit is running.
	ReasonRevisionUnknown = "RevisionUnknown"
	// ReasonRevisionChanged: another commit was deployed while the snapshots were taken.
	ReasonRevisionChanged = "RevisionChanged"
	// ReasonVolumeNotReady: an expected claim is not bound, is being restored, or cannot be snapshotted.
	ReasonVolumeNotReady = "VolumeNotReady"
	// ReasonQuiesceFailed: the application was not held still as the policy wants it until the snapshots were taken.
	ReasonQuiesceFailed = "QuiesceFailed"
	// ReasonUnquiesceFailed: a post hook failed: the application may still be held. It is tried again until it succeeds.
	ReasonUnquiesceFailed = "UnquiesceFailed"
	// ReasonScaleDownFailed: the workloads were not all away, as the policy wants it, until the snapshots were taken.
	ReasonScaleDownFailed = "ScaleDownFailed"
	// ReasonScaleUpFailed: a workload that was scaled to zero did not get its replicas back. It is tried again until it does.
	ReasonScaleUpFailed = "ScaleUpFailed"
	// ReasonGroupSnapshotUnavailable: the policy wants one snapshot of all volumes, and the cluster or the storage cannot take it.
	ReasonGroupSnapshotUnavailable = "GroupSnapshotUnavailable"
	// ReasonSnapshotFailed: the storage could not make a snapshot.
	ReasonSnapshotFailed = "SnapshotFailed"
	// ReasonSaveFailed: a mover could not save a volume; the message names the files.
	ReasonSaveFailed = "SaveFailed"
	// ReasonResidualMissing: an object needs a Secret or ConfigMap that neither Git nor the cluster holds.
	ReasonResidualMissing = "ResidualMissing"
	// ReasonResidualTooLarge: what Git does not hold is more than one sealed document can keep.
	ReasonResidualTooLarge = "ResidualTooLarge"
)

// Reasons of Restore.
const (
	// ReasonPointNotFound: proven absent: the vault has answered and holds no matching point.
	ReasonPointNotFound = "PointNotFound"
	// ReasonPointUnknown: whether there is a matching point cannot be known now. Nothing is created.
	ReasonPointUnknown = "PointUnknown"
	// ReasonSourceUnknown: the Git repository does not answer, or does not hold what was asked for.
	ReasonSourceUnknown = "SourceUnknown"
	// ReasonSourceUnusable: the repository holds the commit, and it cannot be restored: the repository is of a kind that is not
	// supported yet, or the commit's files cannot be written out safely.
	ReasonSourceUnusable = "SourceUnusable"
	// ReasonDependencyNotReady: a Restore that this one depends on does not exist, or has stopped.
	ReasonDependencyNotReady = "DependencyNotReady"
	// ReasonRenderFailed: the commit does not render.
	ReasonRenderFailed = "RenderFailed"
	// ReasonRefused: the plan would break an invariant (a bound claim, a missing StorageClass); nothing was created.
	ReasonRefused = "Refused"
	// ReasonHydrateFailed: a volume could not be filled or verified; its claim stays reserved and empty of consumers.
	ReasonHydrateFailed = "HydrateFailed"
	// ReasonApplyFailed: the API server refused an object of the commit.
	ReasonApplyFailed = "ApplyFailed"
	// ReasonUnhealthy: data and objects are in place, a workload did not become healthy in time.
	ReasonUnhealthy = "Unhealthy"
	// ReasonResidualHeld: data and workloads are in place; objects that Git does not hold wait for a kind or a namespace that the
	// cluster has not.
	ReasonResidualHeld = "ResidualHeld"
)

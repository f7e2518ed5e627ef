package restore

import (
	"fmt"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

const (
	// labelGroup on a mover Job and its pod holds the index of its group, annotationAttempt on the Job the number of the
	// attempt, from 0.
	labelGroup        = "lockstep.dev/group"
	annotationAttempt = "lockstep.dev/attempt"
	// annotationMade on a target claim says that the restore with this UID made it, rather than found it.
	annotationMade = "lockstep.dev/made-by-restore"
)

// stagingName names the staging claim of the volume with the index. It comes from the UID alone, so that a controller that
// starts anew finds what it made.
func stagingName(uid string, index int) string {
	return fmt.Sprintf("ls-%s-%d", shortUID(uid), index)
}

// jobName names an attempt at filling a group.
func jobName(uid string, group, attempt int) string {
	return fmt.Sprintf("ls-%s-%d-load-%d", shortUID(uid), group, attempt)
}

func shortUID(uid string) string {
	digits := strings.ReplaceAll(uid, "-", "")
	return digits[:min(len(digits), 12)]
}

// temporary are the labels of what a restore makes for itself in lockstep-system.
func temporary(uid string) map[string]string {
	return map[string]string{v1alpha1.LabelManagedBy: "lockstep", v1alpha1.LabelRestore: uid}
}

package restore

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

const (
	// labelGroup on a mover Job and its pod holds the index of its group, or of several with dots between them, annotationAttempt on
	// the Job the number of the attempt, from 0.
	labelGroup        = "lockstep.dev/group"
	annotationAttempt = "lockstep.dev/attempt"
	// annotationAlone on a staging claim says that a mover of several groups did not fill it: it gets one of its own.
	annotationAlone = "lockstep.dev/alone"
	// annotationMade on a target claim says that the restore with this UID made it, rather than found it.
	annotationMade = "lockstep.dev/made-by-restore"
	// annotationSelectedNode is the scheduler's, on a claim of a class that waits for its first consumer.
	annotationSelectedNode = "volume.kubernetes.io/selected-node"
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

// sharedName names a mover of several groups, of which this is the first.
func sharedName(uid string, first int) string {
	return fmt.Sprintf("ls-%s-%d-load-together", shortUID(uid), first)
}

// groupsLabel is the value of labelGroup, groupsOf what it says.
func groupsLabel(groups []int) string {
	var parts []string
	for _, g := range groups {
		parts = append(parts, strconv.Itoa(g))
	}
	return strings.Join(parts, ".")
}

func groupsOf(labels map[string]string) []int {
	var groups []int
	for _, part := range strings.Split(labels[labelGroup], ".") {
		if g, err := strconv.Atoi(part); err == nil {
			groups = append(groups, g)
		}
	}
	return groups
}

func shortUID(uid string) string {
	digits := strings.ReplaceAll(uid, "-", "")
	return digits[:min(len(digits), 12)]
}

// temporary are the labels of what a restore makes for itself in lockstep-system.
func temporary(uid string) map[string]string {
	return map[string]string{v1alpha1.LabelManagedBy: "lockstep", v1alpha1.LabelRestore: uid}
}

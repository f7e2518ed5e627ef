package backup

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubelabels "k8s.io/apimachinery/pkg/labels"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// stillness is what the application's containers need next.
type stillness string

const (
	stillNone   stillness = "none"   // there is nothing to hold, or nothing any more
	stillFreeze stillness = "freeze" // run what has not run of the pre hooks
	stillHeld   stillness = "held"   // all are held: take snapshots, and wait for them
	stillThaw   stillness = "thaw"   // run the post hooks: nobody needs the stillness any more
	stillFailed stillness = "failed"
)

// attempts bounds how often pre hooks are begun anew because a controller died while one ran.
const attempts = 5

// decideQuiesce finds what is next for the containers of a point, of whose snapshots some may have been asked for, and all be cut.
func decideQuiesce(all []v1alpha1.Quiesced, requested, cut bool, now time.Time) (next stillness, message string) {
	next = stillNone
	for i := range all {
		q := &all[i]
		switch {
		case !q.PostHookDue && q.ThawedAt == nil:
			return stillFailed, nameOf(q) + " is not held any more"
		case q.ThawedAt != nil:
			continue
		case q.FrozenAt == nil && requested:
			return stillFailed, "a snapshot was asked for before " + nameOf(q) + " was held still"
		case q.FrozenAt == nil && q.Attempt >= attempts:
			return stillFailed, nameOf(q) + ": no controller lived long enough to hold it still"
		case q.FrozenAt == nil:
			next = stillFreeze
		case cut && next == stillNone:
			next = stillThaw
		case !cut && now.After(q.StartedAt.Add(q.Timeout.Duration)):
			return stillFailed, fmt.Sprintf("%s: the snapshots were not taken within %s", nameOf(q), spelling.Duration(q.Timeout.Duration))
		case next == stillNone:
			next = stillHeld
		}
	}
	return next, ""
}

// targets finds the containers of a hook among the pods of its namespace.
func targets(hook int, h v1alpha1.QuiesceHook, pods []corev1.Pod) ([]v1alpha1.Quiesced, error) {
	selector, err := metav1.LabelSelectorAsSelector(&h.Selector)
	if err != nil {
		return nil, lacksForGood(v1alpha1.ReasonInvalidSpec, "quiesce[%d]: its selector: %w", hook, err)
	}
	var out []v1alpha1.Quiesced
	for i := range pods {
		pod := &pods[i]
		if !selector.Matches(kubelabels.Set(pod.Labels)) || over(pod) {
			continue
		}
		name := h.Container
		if name == "" {
			name = pod.Spec.Containers[0].Name
		}
		id, err := runningContainer(pod, name)
		if err != nil {
			return nil, lacks(v1alpha1.ReasonQuiesceFailed, "quiesce[%d]: %w", hook, err)
		}
		out = append(out, v1alpha1.Quiesced{
			Hook: int32(hook), Pod: pod.Name, UID: string(pod.UID), Container: name, ContainerID: id,
			Pre: h.Pre, Post: h.Post, Timeout: h.Timeout, PostHookDue: true,
		})
	}
	if len(out) == 0 && h.WhenNoPod != v1alpha1.WhenNoPodSkip {
		return nil, lacks(v1alpha1.ReasonQuiesceFailed, "quiesce[%d]: no pod matches %q; with whenNoPod: Skip the point would be taken all the same", hook, selector)
	}
	slices.SortFunc(out, func(a, b v1alpha1.Quiesced) int { return strings.Compare(a.Pod, b.Pod) })
	return out, nil
}

// over reports whether a pod has ended: it writes nothing any more.
func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// runningContainer is the ID of a container that runs.
func runningContainer(pod *corev1.Pod, name string) (string, error) {
	if pod.DeletionTimestamp != nil {
		return "", fmt.Errorf("pod %q is being deleted", pod.Name)
	}
	for _, s := range pod.Status.ContainerStatuses {
		switch {
		case s.Name != name:
		case s.State.Running == nil:
			return "", fmt.Errorf("container %q of pod %q does not run", name, pod.Name)
		default:
			return s.ContainerID, nil
		}
	}
	return "", fmt.Errorf("pod %q has no running container %q", pod.Name, name)
}

// consistencyOf says what a claim's data can be relied on for: it was held still if every pod that has it was.
func consistencyOf(claim string, pods []corev1.Pod, all []v1alpha1.Quiesced) v1alpha1.Consistency {
	held := false
	for i := range pods {
		pod := &pods[i]
		if over(pod) || !hasClaim(pod, claim) {
			continue
		}
		held = slices.ContainsFunc(all, func(q v1alpha1.Quiesced) bool { return q.UID == string(pod.UID) })
		if !held {
			break
		}
	}
	if held {
		return v1alpha1.ConsistencyApplication
	}
	return v1alpha1.ConsistencyCrash
}

func hasClaim(pod *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim ||
			v.Ephemeral != nil && pod.Name+"-"+v.Name == claim
	})
}

func nameOf(q *v1alpha1.Quiesced) string {
	return fmt.Sprintf("container %q of pod %q", q.Container, q.Pod)
}

package mover

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// Phase is where a mover Job stands.
type Phase string

// Phases.
const (
	PhasePending   Phase = "Pending"
	PhaseRunning   Phase = "Running"
	PhaseSucceeded Phase = "Succeeded"
	PhaseFailed    Phase = "Failed"
)

// State is a mover Job seen from outside.
type State struct {
	// Phase is Succeeded only if every claim has a result without an error, and Failed as soon as nothing runs any more and one has
	// not.
	Phase Phase
	// Terminal says that another try cannot help: the image cannot be had, or a result is Permanent.
	Terminal bool
	// Message says in words what is waited for or what failed; it holds no times and no counts.
	Message string
	// Results are what the finished containers left, by claim.
	Results map[string]Result
	// Progress is what the running containers showed last, by claim.
	Progress map[string]Progress
	// PodGone says that the Job has no pod: before it started, and after it was removed.
	PodGone bool
	// PendingSince is when what does not run yet began to wait: for a node, its volumes, its image. It is zero once it has run.
	PendingSince time.Time
	// HaltedSince is when the node was restarted while the mover's containers were started, and gave up on its pod; zero if it did not.
	HaltedSince time.Time
	// Idle is for how long no running container has moved anything.
	Idle time.Duration
	// Abandoned says that the Job is being ended because there was no hope for it.
	Abandoned bool
	// LostNode is the pod's node if that is gone or does not answer.
	LostNode string
}

// Observe reads the Job's pods, their results and, of running containers, the last line of their log. A log that cannot be
// read only means that there is no progress to show. Without a client for logs and events neither is read. The reader must not
// be a cache: one that knows less of the pods than the Job does would show a mover that is done as one that left no result.
func Observe(ctx context.Context, c client.Reader, k kubernetes.Interface, job *batchv1.Job) (State, error) {
	var pods corev1.PodList
	err := c.List(ctx, &pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1.ControllerUidLabel: string(job.UID)})
	if err != nil {
		return State{}, fmt.Errorf("listing the pods of job %q: %w", job.Name, err)
	}
	return ObserveAmong(ctx, c, k, job, pods.Items)
}

// ObserveAmong is Observe where the Job's pods are among those that were listed already, later than the Job.
func ObserveAmong(ctx context.Context, c client.Reader, k kubernetes.Interface, job *batchv1.Job, all []corev1.Pod) (State, error) {
	pods := slices.DeleteFunc(slices.Clone(all), func(p corev1.Pod) bool { return p.Labels[batchv1.ControllerUidLabel] != string(job.UID) })
	s := State{
		Phase: PhasePending, Results: map[string]Result{}, Progress: map[string]Progress{}, PodGone: len(pods) == 0,
		PendingSince: job.CreationTimestamp.Time, Abandoned: job.Annotations[AnnotationAbandoned] != "",
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i := range pods {
		s.observePod(ctx, k, &pods[i])
		if err := s.observeNode(ctx, c, &pods[i]); err != nil {
			return State{}, err
		}
	}
	s.conclude(job)
	over, _ := Finished(job)
	if !over && s.Phase == PhasePending && len(s.Results) == 0 {
		s.explainWait(ctx, k, job, pods)
	}
	if s.Abandoned && !s.Terminal {
		s.Message = job.Annotations[AnnotationAbandoned]
	}
	return s, nil
}

// AnnotationAbandoned on a Job says why it was ended before it was over.
const AnnotationAbandoned = "lockstep.dev/abandoned"

// How long a mover may wait for its node, volumes and image, and for how long it may move nothing. A volume may have to be detached
// from a node that died, which alone takes a cluster six minutes.
const (
	maxPending = 10 * time.Minute
	maxIdle    = 30 * time.Minute
	// maxHalted is only for the kubelet to find its words after a restart.
	maxHalted = 30 * time.Second
)

// Hopeless says in words why a mover that is not over should be ended, and another one made; it is empty while there is hope. What
// a lost node runs is not ended: the cluster does that once it knows that the node cannot write any more.
func (s State) Hopeless(now time.Time) string {
	switch {
	case s.Abandoned || s.LostNode != "" || s.Phase == PhaseSucceeded || s.Phase == PhaseFailed:
		return ""
	case s.Phase == PhasePending && !s.PendingSince.IsZero() && now.Sub(s.PendingSince) > maxPending:
		if s.Message == "" {
			return fmt.Sprintf("the mover did not start within %s", spelling.Duration(maxPending))
		}
		return fmt.Sprintf("the mover did not start within %s: %s", spelling.Duration(maxPending), s.Message)
	case s.Phase == PhasePending && !s.HaltedSince.IsZero() && now.Sub(s.HaltedSince) > maxHalted:
		return halted
	case s.Phase == PhaseRunning && s.Idle > maxIdle:
		return fmt.Sprintf("the mover has read and written nothing for %s", spelling.Duration(maxIdle))
	}
	return ""
}

const halted = "the node was restarted while the mover started, and does not start it again"

// observeHalt knows a pod that a kubelet does not go on with. It was restarted, as by a reboot of the node, when a container was made and
// not started yet: the pod's sandbox is gone, and no new one is made for a pod of which there is a container already and which is not
// to be restarted. The kubelet waits with it for ever, and says so by these two signs alone.
func (s *State) observeHalt(pod *corev1.Pod) {
	made := slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Waiting != nil && c.State.Waiting.Reason == "" && c.ContainerID != ""
	})
	for _, c := range pod.Status.Conditions {
		if made && c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionFalse {
			s.HaltedSince, s.Message = c.LastTransitionTime.Time, halted
		}
	}
}

// observeNode looks at the node of a pod that the cluster has not heard of for a while, or wants gone.
func (s *State) observeNode(ctx context.Context, c client.Reader, pod *corev1.Pod) error {
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if pod.Spec.NodeName == "" || over || pod.DeletionTimestamp == nil && !condition(pod.Status.Conditions, corev1.PodReady, corev1.ConditionFalse) {
		return nil
	}
	node := &corev1.Node{}
	switch err := c.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node); {
	case apierrors.IsNotFound(err):
		s.LostNode = pod.Spec.NodeName
		return nil
	case err != nil:
		return fmt.Errorf("reading node %q: %w", pod.Spec.NodeName, err)
	}
	if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		s.LostNode = pod.Spec.NodeName
	}
	return nil
}

func condition(conditions []corev1.PodCondition, what corev1.PodConditionType, status corev1.ConditionStatus) bool {
	return slices.ContainsFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == what && c.Status == status })
}

func (s *State) observePod(ctx context.Context, k kubernetes.Interface, pod *corev1.Pod) {
	claims := claimsByContainer(&pod.Spec)
	if pod.Status.Reason != "" || pod.Status.Message != "" {
		s.Message = sentence(pod.Status.Reason, pod.Status.Message)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			s.Message = sentence(c.Reason, c.Message)
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		of := claims[c.Name]
		if len(of) == 0 {
			continue
		}
		switch {
		case c.State.Terminated != nil:
			s.PendingSince = time.Time{}
			s.terminated(of, c.State.Terminated)
		case c.State.Running != nil:
			p, ok := lastProgress(ctx, k, pod, c.Name)
			if ok {
				s.Progress[cmp.Or(p.Claim, of[0])] = p
			}
			if idle := time.Duration(p.Idle) * time.Second; s.Phase != PhaseRunning || idle < s.Idle {
				s.Idle = idle
			}
			s.Phase, s.PendingSince = PhaseRunning, time.Time{}
		case c.State.Waiting != nil:
			s.waiting(c.State.Waiting)
		}
	}
	s.observeHalt(pod)
}

// terminated takes the results that a container left, which are in the order of its volumes. One that was killed may have left those
// of the first.
func (s *State) terminated(claims []string, t *corev1.ContainerStateTerminated) {
	all, err := DecodeResults(t.Message)
	if err != nil {
		all = nil
	}
	for i, claim := range claims {
		if i == len(all) {
			s.Message = fmt.Sprintf("the mover of claim %q left no result: %s, exit code %d", claim, t.Reason, t.ExitCode)
			return
		}
		s.Results[claim] = all[i]
	}
}

// waiting knows which waits are for ever: a kubelet retries a broken image without end, and says so only by these words.
func (s *State) waiting(w *corev1.ContainerStateWaiting) {
	s.Message = sentence(w.Reason, w.Message)
	switch w.Reason {
	case "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
		s.Terminal, s.Phase = true, PhaseFailed
	}
}

// conclude sets the phase from the Job and the results.
func (s *State) conclude(job *batchv1.Job) {
	over, why := Finished(job)
	if over && why != "" && s.Message == "" {
		s.Message = why
	}
	byContainer := claimsByContainer(&job.Spec.Template.Spec)
	var claims []string
	for _, name := range slices.Sorted(maps.Keys(byContainer)) {
		claims = append(claims, byContainer[name]...)
	}
	done := 0
	for _, claim := range claims {
		r, ok := s.Results[claim]
		switch {
		case !ok:
		case r.Error == "":
			done++
		default:
			s.Terminal = s.Terminal || r.Permanent()
			s.Message = r.Error
		}
	}
	switch {
	case s.Phase == PhaseFailed: // for ever waiting
	case done == len(claims) && over:
		s.Phase, s.Message = PhaseSucceeded, ""
	case over:
		s.Phase = PhaseFailed
		if s.Message == "" {
			s.Message = "the mover is gone and left no result"
		}
	case s.LostNode != "":
		s.Message = fmt.Sprintf("node %s, where the mover runs, is lost: it goes on elsewhere once the node has let go of the volume", s.LostNode)
	case s.Phase == PhaseRunning:
		s.Message = ""
	}
}

// explainWait finds in the events why nothing runs: what the kubelet says of volumes, or what kept the Job from having a pod.
func (s *State) explainWait(ctx context.Context, k kubernetes.Interface, job *batchv1.Job, pods []corev1.Pod) {
	of := job.UID
	for _, p := range pods {
		if condition(p.Status.Conditions, corev1.PodScheduled, corev1.ConditionFalse) {
			return // the scheduler says why in the pod itself
		}
		of = p.UID
	}
	s.Message = cmp.Or(Warning(ctx, k, job.Namespace, of), s.Message)
}

// Warning is the newest warning among the events about an object; empty if there is none. Events are hints: that they cannot be read, or that
// there is no client for them, only means that there is nothing to show.
func Warning(ctx context.Context, k kubernetes.Interface, namespace string, of types.UID) string {
	if k == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	events, err := k.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.AndSelectors(fields.OneTermEqualSelector("involvedObject.uid", string(of)),
			fields.OneTermEqualSelector("type", corev1.EventTypeWarning)).String(),
		Limit: maxEvents,
	})
	if err != nil {
		return ""
	}
	var last time.Time
	warning := ""
	for _, e := range events.Items {
		at := e.LastTimestamp.Time
		if e.Series != nil {
			at = e.Series.LastObservedTime.Time
		}
		if e.InvolvedObject.UID == of && e.Type == corev1.EventTypeWarning && !at.Before(last) {
			last, warning = at, sentence(e.Reason, e.Message)
		}
	}
	return warning
}

// maxEvents bounds what is read of a pod's events; there is one for each kind of trouble.
const maxEvents = 50

// claimsByContainer are the claims of each container's volumes, in their order in the pod. Other volumes of the pod are left out: a
// vault may itself be on a claim.
func claimsByContainer(pod *corev1.PodSpec) map[string][]string {
	claims := map[string][]string{}
	for _, c := range pod.Containers {
		if c.Name == copyContainer {
			claims[c.Name] = []string{copyContainer}
		}
		for _, v := range pod.Volumes {
			mine := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) ||
				slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == v.Name })
			if mine && v.PersistentVolumeClaim != nil && strings.HasPrefix(v.Name, volumePrefix) {
				claims[c.Name] = append(claims[c.Name], v.PersistentVolumeClaim.ClaimName)
			}
		}
	}
	return claims
}

// Finished reports whether a Job is over, and if it failed as a whole, why.
func Finished(job *batchv1.Job) (bool, string) {
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return true, ""
		case batchv1.JobFailed:
			return true, sentence(c.Reason, c.Message)
		}
	}
	return false, ""
}

// logTimeout bounds the wait for one line of a log: progress is worth less than the reconciliation that asks for it.
const logTimeout = 2 * time.Second

func lastProgress(ctx context.Context, k kubernetes.Interface, pod *corev1.Pod, container string) (Progress, bool) {
	if k == nil {
		return Progress{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	raw, err := k.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, TailLines: new(int64(1)), LimitBytes: new(int64(defaultMessage)),
	}).Stream(ctx)
	if err != nil {
		return Progress{}, false
	}
	defer raw.Close()
	line, err := bufio.NewReader(io.LimitReader(raw, defaultMessage)).ReadBytes('\n')
	if err != nil && len(bytes.TrimSpace(line)) == 0 {
		return Progress{}, false
	}
	var p Progress
	return p, json.Unmarshal(line, &p) == nil
}

func sentence(reason, message string) string {
	switch {
	case message == "":
		return reason
	case reason == "":
		return message
	}
	return reason + ": " + message
}

package mover

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
}

// Observe reads the Job's pods, their results and, of running containers, the last line of their log. A log that cannot be
// read only means that there is no progress to show. The reader must not be a cache: one that knows less of the pods than the
// Job does would show a mover that is done as one that left no result.
func Observe(ctx context.Context, c client.Reader, k kubernetes.Interface, job *batchv1.Job) (State, error) {
	var pods corev1.PodList
	err := c.List(ctx, &pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1.ControllerUidLabel: string(job.UID)})
	if err != nil {
		return State{}, fmt.Errorf("listing the pods of job %q: %w", job.Name, err)
	}
	s := State{Phase: PhasePending, Results: map[string]Result{}, Progress: map[string]Progress{}, PodGone: len(pods.Items) == 0}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i := range pods.Items {
		s.observePod(ctx, k, &pods.Items[i])
	}
	s.conclude(job)
	return s, nil
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
		claim, ok := claims[c.Name]
		if !ok {
			continue
		}
		switch {
		case c.State.Terminated != nil:
			s.terminated(claim, c.State.Terminated)
		case c.State.Running != nil:
			s.Phase = PhaseRunning
			if p, ok := lastProgress(ctx, k, pod, c.Name); ok {
				s.Progress[claim] = p
			}
		case c.State.Waiting != nil:
			s.waiting(c.State.Waiting)
		}
	}
}

func (s *State) terminated(claim string, t *corev1.ContainerStateTerminated) {
	r, err := Decode(t.Message)
	if err != nil {
		s.Message = fmt.Sprintf("the mover of claim %q left no result: %s, exit code %d", claim, t.Reason, t.ExitCode)
		return
	}
	s.Results[claim] = r
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
	claims, done := claimsByContainer(&job.Spec.Template.Spec), 0
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		r, ok := s.Results[claims[name]]
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
	case s.Phase == PhaseRunning:
		s.Message = ""
	}
}

// claimsByContainer leaves out other volumes of the pod: a vault may itself be on a claim.
func claimsByContainer(pod *corev1.PodSpec) map[string]string {
	claims := map[string]string{}
	for _, c := range pod.Containers {
		for _, v := range pod.Volumes {
			if v.Name == c.Name && v.PersistentVolumeClaim != nil {
				claims[c.Name] = v.PersistentVolumeClaim.ClaimName
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

package object

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// hooksOf are the times at which Argo CD or Helm is to make an object, as its author declared them; none if it declares nothing.
// Where both are declared, Argo CD's count, as they do for Argo CD.
func hooksOf(u *unstructured.Unstructured) []string {
	annotations := u.GetAnnotations()
	declared := annotations["argocd.argoproj.io/hook"]
	if declared == "" {
		declared = annotations["helm.sh/hook"]
	}
	var hooks []string
	for hook := range strings.SplitSeq(declared, ",") {
		if hook = strings.TrimSpace(hook); hook != "" {
			hooks = append(hooks, hook)
		}
	}
	return hooks
}

// otherTimes are the hooks of Argo CD and of Helm that no deploy runs.
var otherTimes = []string{"PreDelete", "PostDelete", "SyncFail", "Skip", "pre-delete", "post-delete", "test", "test-success", "test-failure"}

// flagsOfSync make `lockstep backup` a part of Argo CD's sync.
var flagsOfSync = []string{"--argocd-presync", "--argocd-postsync"}

// LeftOut says in words why an object of a commit is not brought by who applies the commit without Argo CD; it is empty for everything that
// is. Some hooks are for another time than a deploy: one that clears up behind a deleted application must not run when it comes back.
// And those of Lockstep itself ask for a restore point of the sync that they run in. The error is an ErrMalformed.
func LeftOut(u *unstructured.Unstructured) (string, error) {
	hooks := hooksOf(u)
	if len(hooks) > 0 && !slices.ContainsFunc(hooks, func(h string) bool { return !slices.Contains(otherTimes, h) }) {
		return "a hook for " + strings.Join(hooks, ", ") + ", which a deploy does not run", nil
	}
	spec, err := PodSpec(u)
	if err != nil || spec == nil || len(hooks) == 0 {
		return "", err
	}
	for _, c := range spec.Containers {
		if slices.ContainsFunc(slices.Concat(c.Command, c.Args), func(arg string) bool { return slices.Contains(flagsOfSync, arg) }) {
			return "a hook that asks for the restore point of a sync by Argo CD", nil
		}
	}
	return "", nil
}

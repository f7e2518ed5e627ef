package backup_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/controller/internal/podexec"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

// shells is a stand-in for kubelets: what a hook runs in a container runs as a process of this machine, by its shell. The directory has
// the container's marks and the log that the hooks write.
type shells struct {
	dir string
	// broken, if set, is what running anything ends in.
	broken error
}

func (s *shells) Run(ctx context.Context, _ podexec.Target, argv ...string) (podexec.Result, error) {
	if s.broken != nil {
		return podexec.Result{}, s.broken
	}
	argv = slices.Clone(argv)
	for i := range argv {
		argv[i] = strings.Replace(argv[i], "'/dev/shm /tmp /run'", "'"+s.dir+"'", 1)
	}
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	result := podexec.Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		result.Code, err = ended.ExitCode(), nil
	}
	return result, err
}

// says is a hook that adds a word to the log.
func (s *shells) says(word string) []string {
	return []string{"sh", "-c", "echo " + word + " >>" + filepath.Join(s.dir, "log")}
}

// log takes what the hooks have written.
func (s *shells) log(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

// database is an application that a policy's hook holds still.
type database struct {
	*shells
	pod    *corev1.Pod
	policy *v1alpha1.ProtectionPolicy
}

// database makes a pod that has the claim "db", and a policy of both claims with a hook for it.
func (w *world) database(t *testing.T) *database {
	t.Helper()
	d := &database{shells: &shells{dir: t.TempDir()}, pod: pod("db-0", "none", map[string]string{"app": "db"})}
	d.pod.Spec.Containers[0].EnvFrom = nil
	d.pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "db"}}}}
	w.create(d.pod)
	w.runs(d.pod, "containerd://1")
	d.policy = &v1alpha1.ProtectionPolicy{}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, d.policy))
	d.policy.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: "held", Annotations: d.policy.Annotations}
	d.policy.Spec.Quiesce = []v1alpha1.QuiesceHook{{
		Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
		Pre:      d.says("held"), Post: d.says("free"), Timeout: metav1.Duration{Duration: 30 * time.Second},
	}}
	w.create(d.policy)
	w.exec = d
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		must(t, client.IgnoreNotFound(w.c.Delete(ctx, d.pod, client.GracePeriodSeconds(0))))
		must(t, w.c.Delete(ctx, d.policy))
		w.exec = nil
	})
	return d
}

// runs says what a kubelet would: that the pod's container runs, with an ID.
func (w *world) runs(p *corev1.Pod, id string) {
	w.t.Helper()
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Image: "none", ContainerID: id,
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	must(w.t, w.c.Status().Update(w.t.Context(), p))
}

// change changes the policy's hook.
func (w *world) change(d *database, edit func(*v1alpha1.QuiesceHook)) {
	w.t.Helper()
	edit(&d.policy.Spec.Quiesce[0])
	must(w.t, w.c.Update(w.t.Context(), d.policy))
}

func (d *database) expect(t *testing.T, want string) {
	t.Helper()
	if got := d.log(t); got != want {
		t.Errorf("the hooks did %q, want %q", got, want)
	}
}

// frozen is true of a point whose application is held still.
func frozen(p *v1alpha1.RestorePoint) bool {
	return len(p.Status.Quiesce) > 0 && p.Status.Quiesce[0].FrozenAt != nil
}

func testHeld(t *testing.T, w *world) {
	d := w.database(t)
	p := w.requestOf("held", "held")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	if q := p.Status.Quiesce; len(q) != 1 || !q[0].PostHookDue || q[0].FrozenAt != nil {
		t.Errorf("before the pre hook: %+v", q)
	}
	d.expect(t, "")
	must(t, w.run(w.c, p, frozen))
	if len(w.cluster.snapshots) > 0 {
		t.Error("a snapshot was taken before the application was held still")
	}
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.Taken != nil }))
	d.expect(t, "held free") // and nothing is saved yet
	must(t, w.run(w.c, p, cleaned))
	q := p.Status.Quiesce[0]
	if q.PostHookDue || q.ThawedAt == nil || q.ThawedAt.Before(q.FrozenAt) || q.Message != "" || q.Pod != "db-0" {
		t.Errorf("afterwards: %+v", q)
	}
	record, err := catalog.Get(t.Context(), w.vault, p.Status.ID)
	must(t, err)
	for i, v := range p.Status.Volumes {
		want, recorded := v1alpha1.ConsistencyCrash, v1alpha1.Consistency("")
		if v.Claim == "db" {
			want, recorded = v1alpha1.ConsistencyApplication, v1alpha1.ConsistencyApplication
		}
		if v.Consistency != want || record.Volumes[i].Consistency != recorded {
			t.Errorf("claim %s: %s, in the record %q, want %s", v.Claim, v.Consistency, record.Volumes[i].Consistency, want)
		}
	}
	d.expect(t, "held free")
}

// testHookRefuses has every way in which a point cannot say that the application was held still: it fails, and lets the application go.
func testHookRefuses(t *testing.T, w *world) {
	edit := func(edit func(*database, *v1alpha1.QuiesceHook)) func(*testing.T, *world, *database, *v1alpha1.RestorePoint) {
		return func(_ *testing.T, w *world, d *database, _ *v1alpha1.RestorePoint) {
			w.change(d, func(h *v1alpha1.QuiesceHook) { edit(d, h) })
		}
	}
	whileHeld := func(do func(*testing.T, *world, *database)) func(*testing.T, *world, *database, *v1alpha1.RestorePoint) {
		return func(t *testing.T, w *world, d *database, p *v1alpha1.RestorePoint) {
			must(t, w.run(w.c, p, frozen))
			do(t, w, d)
		}
	}
	defer func() { w.t, w.cluster.t = t, t }()
	for name, tt := range map[string]struct {
		spoil               func(*testing.T, *world, *database, *v1alpha1.RestorePoint)
		reason, says, hooks string
	}{
		"a hook before fails": {edit(func(d *database, h *v1alpha1.QuiesceHook) {
			h.Pre = []string{"sh", "-c", "echo the disk is full >&2; exit 3"}
		}), v1alpha1.ReasonQuiesceFailed, `the pre hook in container "main" of pod "db-0" ended with 3: the disk is full`, "free"},
		"a hook before hangs": {edit(func(d *database, h *v1alpha1.QuiesceHook) {
			h.Pre, h.Timeout.Duration = []string{"sleep", "60"}, time.Second
		}), v1alpha1.ReasonQuiesceFailed, "was not done within 1s", "free"},
		"a hook after fails": {edit(func(d *database, h *v1alpha1.QuiesceHook) {
			h.Post = []string{"sh", "-c", "ls " + d.dir + "/log2 || { mkdir " + d.dir + "/log2; exit 4; }"}
		}), v1alpha1.ReasonUnquiesceFailed, `the post hook in container "main" of pod "db-0" ended with 4`, "held"},
		"a hook finds no pod": {edit(func(_ *database, h *v1alpha1.QuiesceHook) {
			h.Selector.MatchLabels["app"] = "none"
		}), v1alpha1.ReasonQuiesceFailed, `quiesce[0]: no pod matches "app=none"`, ""},
		"a hook finds no container": {edit(func(_ *database, h *v1alpha1.QuiesceHook) {
			h.Container = "none"
		}), v1alpha1.ReasonQuiesceFailed, `pod "db-0" has no running container "none"`, ""},
		"the container has no shell": {func(_ *testing.T, _ *world, d *database, _ *v1alpha1.RestorePoint) {
			d.broken = errors.New(`exec: "sh": executable file not found in $PATH`)
		}, v1alpha1.ReasonQuiesceFailed, "the container has no sh, which the watchdog needs", ""},
		"the container is restarted": {whileHeld(func(_ *testing.T, w *world, d *database) {
			w.runs(d.pod, "containerd://2")
		}), v1alpha1.ReasonQuiesceFailed, "was restarted while it was held still", "held free"},
		"the pod is deleted": {whileHeld(func(t *testing.T, w *world, d *database) {
			must(t, w.c.Delete(t.Context(), d.pod, client.GracePeriodSeconds(0)))
		}), v1alpha1.ReasonQuiesceFailed, "was deleted while it was held still", "held"},
		"the snapshots take too long": {func(_ *testing.T, w *world, _ *database, _ *v1alpha1.RestorePoint) {
			w.cluster.broken["db"] = "the pool is full"
		}, v1alpha1.ReasonQuiesceFailed, "the snapshots were not taken within 30s", "held free"},
		"the watchdog strikes first": {func(t *testing.T, w *world, d *database, p *v1alpha1.RestorePoint) {
			w.change(d, func(h *v1alpha1.QuiesceHook) { h.Timeout.Duration = time.Second })
			must(t, w.run(w.c, p, frozen))
			w.clock.now = p.Status.Quiesce[0].StartedAt.Time // a controller whose clock stands still
			d.until(t, "held free")
		}, v1alpha1.ReasonQuiesceFailed, "was let go by its watchdog after 1s", "held free"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t, w.cluster.t = t, t
			d := w.database(t)
			p := w.requestOf("refused-"+strings.ReplaceAll(name, " ", "-"), "held")
			tt.spoil(t, w, d, p)
			must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool {
				if d.broken != nil && len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Type == v1alpha1.ConditionStalled {
					d.broken = nil
				}
				return cleaned(p)
			}))
			delete(w.cluster.broken, "db")
			w.expectFailure(p, tt.reason, tt.says)
			d.expect(t, tt.hooks)
			for _, q := range p.Status.Quiesce {
				if q.PostHookDue {
					t.Errorf("the post hook is still due: %+v", q)
				}
			}
			w.expectNothingLeft()
		})
	}
}

// until waits for a watchdog, which nobody can wait for otherwise.
func (d *database) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for d.log(t) != want {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("the hooks did %q, want %q", d.log(t), want)
		}
	}
}

func testHeldAndDeleted(t *testing.T, w *world) {
	d := w.database(t)
	p := w.requestOf("held-deleted", "held")
	must(t, w.run(w.c, p, frozen))
	must(t, w.c.Delete(t.Context(), p))
	if err := w.run(w.c, p, func(*v1alpha1.RestorePoint) bool { return false }); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	d.expect(t, "held free")
}

// testHeldAndKilled ends the controller when the pre hook has run, and before anybody has written that down.
func testHeldAndKilled(t *testing.T, w *world) {
	d := w.database(t)
	p := w.requestOf("held-killed", "held")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	dead := interceptor.NewClient(w.c, interceptor.Funcs{
		SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
			return testenv.ErrDead
		},
	})
	if err := w.run(dead, p, frozen); !errors.Is(err, testenv.ErrDead) {
		t.Fatal(err)
	}
	d.expect(t, "held")
	must(t, w.run(w.c, p, cleaned))
	if q := p.Status.Quiesce[0]; q.Attempt != 1 || q.PostHookDue || len(p.Status.Copies) != 1 {
		t.Errorf("%+v", p.Status)
	}
	d.expect(t, "held free held free")
}

func testNobodyToHold(t *testing.T, w *world) {
	d := w.database(t)
	w.change(d, func(h *v1alpha1.QuiesceHook) {
		h.Selector.MatchLabels["app"], h.WhenNoPod = "none", v1alpha1.WhenNoPodSkip
	})
	p := w.requestOf("nobody", "held")
	must(t, w.run(w.c, p, cleaned))
	if len(p.Status.Quiesce) > 0 || p.Status.Volumes[0].Consistency != v1alpha1.ConsistencyCrash || len(p.Status.Copies) != 1 {
		t.Errorf("%+v", p.Status)
	}
	d.expect(t, "")
}

// heldAndFree wants a log in which everything that was held was let go, before it was held again and at last.
func (d *database) heldAndFree(t *testing.T) {
	t.Helper()
	log := strings.Fields(d.log(t))
	for i, word := range log {
		if want := []string{"held", "free"}[i%2]; word != want {
			t.Errorf("the hooks did %v", log)
			return
		}
	}
	if len(log) == 0 || len(log)%2 == 1 {
		t.Errorf("the hooks did %v", log)
	}
	must(t, os.Remove(filepath.Join(d.dir, "log")))
}

// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// These tests run the commands against a real API server. No controller runs: stand-ins patch the statuses that it would.

// testCluster is an API server, and a kubeconfig for it.
type testCluster struct {
	*kube.Cluster
	kubeconfig string
}

func startCluster(t *testing.T, withKinds bool, more ...string) *testCluster {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("SKIPPED: no API server to test with: $KUBEBUILDER_ASSETS is not set; `make test` sets it")
	}
	env := &envtest.Environment{ErrorIfCRDPathMissing: true,
		CRDInstallOptions: envtest.CRDInstallOptions{MaxTime: 5 * time.Minute}}
	if withKinds {
		env.CRDDirectoryPaths = append(more, filepath.Join("..", "..", "..", "manifests", "crd"))
	}
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	user, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := kube.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tc := &testCluster{Cluster: c, kubeconfig: path}
	if withKinds {
		tc.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SystemNamespace}})
	}
	return tc
}

func (c *testCluster) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Create(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

// setStatus plays the controller.
func (c *testCluster) setStatus(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Status().Update(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

// standIn plays the controller while a command runs: act is called again and again until the test ends. Conflicts with
// the command are tried again, as a controller does.
func (c *testCluster) standIn(t *testing.T, act func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				err := act(ctx)
				if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
					t.Errorf("stand-in: %v", err)
					return
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// outcome is how a command ended.
type outcome struct {
	code     fault.Code
	out, err string
}

func (c *testCluster) run(t *testing.T, args ...string) outcome {
	t.Helper()
	return c.runUntil(t, "\x00", args...)
}

// runUntil runs a command that is interrupted when its output to standard error has the text.
func (c *testCluster) runUntil(t *testing.T, text string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return c.runWith(ctx, &interrupter{text: text, cancel: cancel}, args...)
}

// interrupter interrupts a command at a text.
type interrupter struct {
	strings.Builder
	text   string
	cancel context.CancelFunc
}

func (i *interrupter) Write(data []byte) (int, error) {
	n, err := i.Builder.Write(data)
	if strings.Contains(i.String(), i.text) {
		i.cancel()
	}
	return n, err
}

func (c *testCluster) runWith(ctx context.Context, errOut *interrupter, args ...string) outcome {
	var out strings.Builder
	p := &Program{
		Name: "lockstep", Version: "test", Out: &out, Err: errOut, Now: time.Now,
		Getenv: func(string) string { return "" },
	}
	// Not at the end, where a completion has what is to be completed.
	code := p.Run(ctx, slices.Insert(slices.Clone(args), 1, "--kubeconfig", c.kubeconfig))
	return outcome{code, out.String(), errOut.String()}
}

func (o outcome) want(t *testing.T, code fault.Code, texts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", o.code, code, o.out, o.err)
	}
	for _, text := range texts {
		if !strings.Contains(o.out+o.err, text) {
			t.Errorf("%q is missing in:\n%s%s", text, o.out, o.err)
		}
	}
}

func policy(namespace, name string) *v1alpha1.ProtectionPolicy {
	return &v1alpha1.ProtectionPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}},
	}
}

func s3Vault(name string) *v1alpha1.Vault {
	return &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.VaultSpec{
			S3: &v1alpha1.S3Location{Bucket: "acme", Prefix: name}, KeySecretRef: v1alpha1.SecretReference{Name: "key"},
		},
	}
}

func TestCommandsOnACluster(t *testing.T) {
	c := startCluster(t, true, filepath.Join("..", "..", "..", "test", "standin", "crd"))
	c.run(t, "status").want(t, fault.Failed, "there is no vault: nothing is protected")
	c.create(t, s3Vault("primary"))
	for _, test := range []struct {
		name string
		run  func(*testing.T, *testCluster)
	}{
		{"Backup", testBackup},
		{"ArgoCD", testArgoCD},
		{"Restore", testRestore},
		{"Release", testRelease},
		{"Status", testStatus},
		{"Describe", testDescribe},
		{"PolicyPreview", testPolicyPreview},
		{"Completion", testCompletion},
		{"Waiting", testWaiting},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

func (c *testCluster) namespace(t *testing.T, name string) string {
	t.Helper()
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

func testBackup(t *testing.T, c *testCluster) {
	ns := c.namespace(t, "backup")
	for _, name := range []string{"shop", "broken", "lost"} {
		c.create(t, policy(ns, name))
	}
	c.standIn(t, func(ctx context.Context) error {
		var points v1alpha1.RestorePointList
		if err := c.List(ctx, &points, client.InNamespace(ns)); err != nil {
			return err
		}
		for i := range points.Items {
			if err := c.finishPoint(ctx, &points.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})

	c.run(t, "backup", "shop", "-n", ns, "--before", commit, "-o", "json").want(t, fault.Done, `"trigger": "PreDeploy"`, `"before": "`+commit+`"`)
	c.run(t, "backup", "shop", "-n", ns, "-o", "json").want(t, fault.Done, `"trigger": "Manual"`)
	c.run(t, "backup", "shop", "-n", ns, "--before", commit).want(t, fault.Done,
		"made RestorePoint backup/shop-", "volume data", "Saved",
		"point 20260102-030405-aaaaaaaa of commit 0123456", "(v1.0.0): 1 volume, 3.0 MiB (1.0 MiB new in the vault), in 40 s")
	c.run(t, "backup", "policy/shop", "-n", ns, "-o", "json").want(t, fault.Done, `"kind": "RestorePoint"`, `"id": "20260102-030405-aaaaaaaa"`)
	c.run(t, "backup", "shop", "-n", ns, "--wait=false").want(t, fault.Done, "point/shop-")
	c.run(t, "backup", "broken", "-n", ns).want(t, fault.Failed, `the point failed: SaveFailed: claim "data": "a/b": permission denied`)
	c.run(t, "backup", "lost", "-n", ns, "--timeout", "1s").want(t, fault.Unknown, "not finished within 1s: VaultNotReady", "lockstep describe point/lost-")
	c.run(t, "backup", "nobody", "-n", ns).want(t, fault.Absent, `namespace backup has no ProtectionPolicy "nobody"`, "shop -n backup")

	pipeline := c.pipeline(t, ns)
	pipeline.run(t, "backup", "shop", "-n", ns).want(t, fault.Done, "point 20260102-030405-aaaaaaaa")
	pipeline.run(t, "backup", "nobody", "-n", ns).want(t, fault.Absent, `namespace backup has no ProtectionPolicy "nobody"`)
}

// pipeline is the cluster for whoever may do what action/README.md says and nothing else.
func (c *testCluster) pipeline(t *testing.T, namespace string) *testCluster {
	t.Helper()
	const name = "pipeline"
	group := v1alpha1.GroupVersion.Group
	c.create(t, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{group}, Resources: []string{"restorepoints"}, Verbs: []string{"create", "get"}},
		{APIGroups: []string{group}, Resources: []string{"protectionpolicies"}, Verbs: []string{"get"}},
	}})
	c.create(t, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	})
	config, err := clientcmd.LoadFromFile(c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = name
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return &testCluster{Cluster: c.Cluster, kubeconfig: path}
}

// finishPoint plays the backup controller: what becomes of a point depends on its policy.
func (c *testCluster) finishPoint(ctx context.Context, p *v1alpha1.RestorePoint) error {
	if len(p.Status.Conditions) > 0 {
		return nil
	}
	start := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	end := metav1.NewTime(start.Add(40 * time.Second))
	p.Status.StartedAt = &start
	switch p.Spec.PolicyRef.Name {
	case "broken":
		p.Status.Conditions = hasStalled(v1alpha1.ReasonSaveFailed, `claim "data": "a/b": permission denied`)
	case "lost":
		p.Status.Conditions = []metav1.Condition{
			condition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonVaultNotReady, "the store does not answer"),
		}
	default:
		p.Status.ID, p.Status.Taken, p.Status.CompletedAt = "20260102-030405-aaaaaaaa", &start, &end
		p.Status.Revision = &v1alpha1.Revision{Repository: "https://git.example.com/shop.git", Ref: "v1.0.0", Commit: commit, Path: ".", Tree: commit}
		p.Status.Volumes = []v1alpha1.VolumeCapture{{Claim: "data", UID: "u", State: v1alpha1.VolumeSaved, Bytes: 3 << 20, Stored: 1 << 20, Files: 7}}
		p.Status.Conditions = isReady(v1alpha1.ReasonSucceeded)
	}
	return c.Status().Update(ctx, p)
}

func testRestore(t *testing.T, c *testCluster) {
	c.standIn(t, func(ctx context.Context) error {
		var restores v1alpha1.RestoreList
		if err := c.List(ctx, &restores, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
			return err
		}
		for i := range restores.Items {
			if err := c.finishRestore(ctx, &restores.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	repo := []string{"--repo", "https://git.example.com/shop.git", "--path", "/deploy/"}
	restore := func(args ...string) outcome {
		return c.run(t, append(append([]string{"restore"}, repo...), args...)...)
	}

	restore("--tag", "v1.0.0", "--name", "shop-v1.0.0").want(t, fault.Done,
		"made Restore lockstep-system/shop-v1.0.0",
		"point 20260102-030405-aaaaaaaa, taken 2026-01-02 03:04:05Z at commit 0123456",
		"chosen: Exact: taken while this commit was running",
		"+1 s    deployment shop/front is released",
		"+20 s   volume shop/data is filled and verified, 3.0 MiB",
		"+31 s   everything is healthy",
		"is back with its data; RTO 31 s", "objective: 1 min 00 s, met with 29 s to spare")
	restore("--tag", "v1.0.0", "-o", "json").want(t, fault.Done, `"kind": "Restore"`, `"path": "deploy"`, `"completedAt"`,
		`"what": "VolumeFilled"`, `"rtoSeconds": 31`, `"objectiveMet": true`)
	restore("--tag", "v1.0.0", "--name", "shop-v1.0.0").want(t, fault.Refused, `there is another Restore "shop-v1.0.0"`)
	restore("--tag", "absent").want(t, fault.Absent, "the restore ended: PointNotFound", "nearest")
	restore("--commit", "feedbeef").want(t, fault.Refused, "claim shop/data is bound")
	restore("--before", "2026-01-02T03:04:05Z").want(t, fault.Failed, "HydrateFailed")
	restore("--tag", "gone").want(t, fault.Absent, "SourceUnknown")
	restore("--tag", "v1.0.0", "--vault", "nosuch").want(t, fault.Usage, `no Vault "nosuch"`, "There are: primary")
	restore("--tag", "v1.0.0", "--wait=false").want(t, fault.Done, "restore/restore-v1.0.0-")
	c.run(t, "restore", "--tag", "v1", "--repo", "git@example.com:shop.git").want(t, fault.Failed, "a repository URL starts with")

	// A restore that is under way is watched, not begun again.
	before := c.restores(t)
	restore("--tag", "slow", "--wait=false")
	restore("--tag", "slow", "--wait=false").want(t, fault.Done, "this restore is already under way")
	args := append([]string{"restore", "--tag", "slow"}, repo...)
	c.runUntil(t, "already under way", args...).want(t, fault.Interrupted, "The restore goes on in the cluster", "lockstep: interrupted")
	if got := c.restores(t); got != before+1 {
		t.Errorf("%d restores were made, want 1", got-before)
	}
}

func (c *testCluster) restores(t *testing.T) int {
	t.Helper()
	var list v1alpha1.RestoreList
	if err := c.List(context.Background(), &list); err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

// finishRestore plays the restore controller.
func (c *testCluster) finishRestore(ctx context.Context, r *v1alpha1.Restore) error {
	if len(r.Status.Conditions) > 0 || r.Spec.From.Tag == "slow" {
		return nil
	}
	start := time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)
	at := func(seconds int) *metav1.Time {
		return &metav1.Time{Time: start.Add(time.Duration(seconds) * time.Second)}
	}
	s := &r.Status
	s.StartedAt = at(0)
	switch {
	case r.Spec.From.Tag == "absent":
		s.Conditions = hasStalled(v1alpha1.ReasonPointNotFound, "no point of commit 89abcde; nearest: 20260102-030405-aaaaaaaa")
	case r.Spec.From.Tag == "gone":
		s.Conditions = hasStalled(v1alpha1.ReasonSourceUnknown, `tag "gone" is not in the repository`)
	case r.Spec.From.Commit != "":
		s.Conditions = hasStalled(v1alpha1.ReasonRefused, "claim shop/data is bound")
	case r.Spec.From.Before != nil:
		s.Conditions = hasStalled(v1alpha1.ReasonHydrateFailed, "claim shop/data: digest differs")
	default:
		s.Revision = &v1alpha1.Revision{Repository: r.Spec.Source.URL, Ref: r.Spec.From.Tag, Commit: commit, Path: "deploy", Tree: commit}
		s.Point = &v1alpha1.ChosenPoint{
			ID: "20260102-030405-aaaaaaaa", Match: "Exact", Message: "taken while this commit was running",
			Taken: metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), Commit: commit,
		}
		s.ReservedAt, s.BoundAt, s.CompletedAt = at(2), at(22), at(31)
		s.Objective = &metav1.Duration{Duration: time.Minute}
		s.Volumes = []v1alpha1.VolumeRestore{{
			Namespace: "shop", Claim: "data", State: v1alpha1.HydrationBound, Bytes: 3 << 20, Progress: 3 << 20,
			ReservedAt: at(2), HydratedAt: at(20), BoundAt: at(22),
		}}
		s.Workloads = []v1alpha1.WorkloadRestore{
			{Kind: "Deployment", Namespace: "shop", Name: "front", State: v1alpha1.WorkloadHealthy, ReleasedAt: at(1), HealthyAt: at(4)},
			{Kind: "StatefulSet", Namespace: "shop", Name: "db", State: v1alpha1.WorkloadHealthy, WaitsFor: []string{"shop/data"}, ReleasedAt: at(3), HealthyAt: at(31)},
		}
		s.Conditions = isReady(v1alpha1.ReasonSucceeded)
	}
	return c.Status().Update(ctx, r)
}

func testStatus(t *testing.T, c *testCluster) {
	ctx := context.Background()
	ns := c.namespace(t, "status")
	v := s3Vault("primary")
	if err := c.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
		t.Fatal(err)
	}
	c.run(t, "status", "-n", ns).want(t, fault.Failed, "vault/primary is not ready: Progressing")
	checked := metav1.Now()
	v.Status.Conditions, v.Status.Points, v.Status.CheckedAt = isReady(v1alpha1.ReasonOpened), 3, &checked
	c.setStatus(t, v)
	c.run(t, "status", "-n", ns).want(t, fault.Done, "All is well.")
	c.run(t, "vault", "list").want(t, fault.Done, "primary   True    Opened   3", "s3://acme/primary")

	p := policy(ns, "shop")
	c.create(t, p)
	p.Status.Conditions, p.Status.Claims = isReady(v1alpha1.ReasonProtecting), []string{"data"}
	c.setStatus(t, p)
	c.run(t, "status", "-n", ns).want(t, fault.Failed, "policy/shop -n status has no point yet")

	p.Spec.Objectives = &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: time.Hour}}
	if err := c.Update(ctx, p); err != nil {
		t.Fatal(err)
	}
	c.run(t, "status", "-n", ns).want(t, fault.Done, "none; the first is due in", "1 h 00 min, pending", "All is well.")

	p.Status.LastPoint = &v1alpha1.PointReference{Name: "shop-1", Taken: metav1.NewTime(time.Now().Add(-30 * time.Minute)), Commit: commit}
	c.setStatus(t, p)
	c.run(t, "status", "-n", ns).want(t, fault.Done, "1 h 00 min, kept")

	p.Status.LastPoint.Taken = metav1.NewTime(time.Now().Add(-3 * time.Hour))
	c.setStatus(t, p)
	c.run(t, "status", "-n", ns).want(t, fault.Failed, "BROKEN", "policy/shop -n status breaks its RPO of 1 h 00 min: the last good point is 3 h 00 min old")
	c.run(t, "status", "-n", ns, "-o", "json").want(t, fault.Failed, `"well": false`, `"rpoKept": false`, `"rpoSeconds": 3600`)

	// A failure counts until a later point succeeds.
	p.Status.LastPoint.Taken = metav1.Now()
	c.setStatus(t, p)
	failed := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "shop-1"},
		Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "shop"}},
	}
	c.create(t, failed)
	failed.Status.Conditions = hasStalled(v1alpha1.ReasonSaveFailed, "a file cannot be read")
	c.setStatus(t, failed)
	c.run(t, "status", "-n", ns).want(t, fault.Failed, "point/shop-1 -n status has failed: SaveFailed: a file cannot be read")
}

// TestFirstPoint: a policy that has no point yet is well as long as none can be expected. It needs no cluster.
func TestFirstPoint(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }
	point := func(conditions ...metav1.Condition) v1alpha1.RestorePoint {
		return v1alpha1.RestorePoint{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "first"},
			Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "shop"}},
			Status:     v1alpha1.RestorePointStatus{Conditions: conditions},
		}
	}
	unknown := condition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonUnreachable, "no answer")
	for _, test := range []struct {
		name     string
		status   v1alpha1.ProtectionPolicyStatus
		points   []v1alpha1.RestorePoint
		problems int
		shown    string
	}{
		{"no schedule", v1alpha1.ProtectionPolicyStatus{}, nil, 1, "-"},
		{"due later", v1alpha1.ProtectionPolicyStatus{NextRun: at(20 * time.Minute)}, nil, 0, "none; the first is due in 20 min 00 s"},
		{"was due, and nobody asked", v1alpha1.ProtectionPolicyStatus{NextRun: at(-time.Minute)}, nil, 1, "-"},
		{"is being taken", v1alpha1.ProtectionPolicyStatus{LastRun: at(-time.Minute), NextRun: at(time.Hour)},
			[]v1alpha1.RestorePoint{point()}, 0, "none; the first is being taken"},
		{"cannot be taken now", v1alpha1.ProtectionPolicyStatus{LastRun: at(-time.Minute), NextRun: at(time.Hour)},
			[]v1alpha1.RestorePoint{point(unknown)}, 1, "-"},
		{"failed", v1alpha1.ProtectionPolicyStatus{LastRun: at(-time.Hour), NextRun: at(time.Hour)},
			[]v1alpha1.RestorePoint{point(hasStalled(v1alpha1.ReasonSaveFailed, "x")...)}, 1, "-"},
		{"the second after a failure", v1alpha1.ProtectionPolicyStatus{LastRun: at(-time.Hour), NextRun: at(time.Hour)},
			[]v1alpha1.RestorePoint{point(hasStalled(v1alpha1.ReasonSaveFailed, "x")...), point()}, 1, "-"},
		{"another policy's", v1alpha1.ProtectionPolicyStatus{LastRun: at(-time.Hour), NextRun: at(time.Hour)},
			[]v1alpha1.RestorePoint{{ObjectMeta: metav1.ObjectMeta{Namespace: "other"}, Spec: point().Spec}}, 1, "-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := policy("shop", "shop")
			p.CreationTimestamp = *at(-10 * time.Minute)
			p.Status = test.status
			p.Status.Conditions = isReady(v1alpha1.ReasonProtecting)
			var r statusReport
			r.policy(p, test.points, now)
			if got := r.Policies[0].lastPoint(now); len(r.Problems) != test.problems || got != test.shown {
				t.Errorf("problems %q, want %d; shown %q, want %q", r.Problems, test.problems, got, test.shown)
			}
		})
	}

	// What was promised counts from the creation.
	for age, want := range map[time.Duration]string{10 * time.Minute: "1 h 00 min, pending", 2 * time.Hour: "1 h 00 min, BROKEN"} {
		p := policy("shop", "shop")
		p.Spec.Objectives = &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: time.Hour}}
		p.CreationTimestamp = *at(-age)
		p.Status.Conditions = isReady(v1alpha1.ReasonProtecting)
		for _, next := range []*metav1.Time{nil, at(24 * time.Hour)} {
			p.Status.NextRun = next
			var r statusReport
			if r.policy(p, nil, now); r.Policies[0].objective() != want || (len(r.Problems) > 0) != (age > time.Hour) {
				t.Errorf("aged %s: %s, problems %q", age, r.Policies[0].objective(), r.Problems)
			}
		}
	}
}

// TestLaterSuccessMakesUpForFailure needs no cluster: creation times of a real one are whole seconds.
func TestLaterSuccessMakesUpForFailure(t *testing.T) {
	at := func(hour int, conditions []metav1.Condition) *v1alpha1.RestorePoint {
		return &v1alpha1.RestorePoint{
			ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 2, hour, 0, 0, 0, time.UTC))},
			Status:     v1alpha1.RestorePointStatus{Conditions: conditions},
		}
	}
	bad, good := at(1, hasStalled("SaveFailed", "x")), at(2, isReady("Succeeded"))
	worse := at(3, hasStalled("SaveFailed", "y"))
	for _, test := range []struct {
		name  string
		tasks []task
		want  int
	}{
		{"a failure", []task{{"point", bad, "a"}}, 1},
		{"made up for", []task{{"point", good, "a"}, {"point", bad, "a"}}, 0},
		{"by another policy's point", []task{{"point", good, "b"}, {"point", bad, "a"}}, 1},
		{"by a restore", []task{{"restore", good, "a"}, {"point", bad, "a"}}, 1},
		{"failed again since", []task{{"point", worse, "a"}, {"point", good, "a"}, {"point", bad, "a"}}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r statusReport
			r.work(test.tasks)
			if len(r.Problems) != test.want {
				t.Errorf("problems %q, want %d", r.Problems, test.want)
			}
		})
	}
}

func testDescribe(t *testing.T, c *testCluster) {
	ns := c.namespace(t, "describe")
	p := policy(ns, "shop")
	p.Spec.Schedule, p.Spec.TimeZone = "*/30 * * * *", "Europe/Berlin"
	p.Annotations = map[string]string{v1alpha1.AnnotationRevision: "v1.0.0@sha1:" + commit}
	c.create(t, p)
	p.Status.Claims = []string{"data", "cache"}
	p.Status.Conditions = []metav1.Condition{condition(v1alpha1.ConditionCopiesBehind, metav1.ConditionTrue, v1alpha1.ReasonCopiesMissing, "offsite lacks 2 points")}
	c.setStatus(t, p)
	c.run(t, "describe", "policy/shop", "-n", ns).want(t, fault.Done, "offsite lacks 2 points", "*/30 * * * * (Europe/Berlin)", "v1.0.0@sha1:"+commit, "Last point:", "none", "  cache")
	c.run(t, "describe", "policy/shop", "-n", ns, "-o", "yaml").want(t, fault.Done, "kind: ProtectionPolicy")
	c.run(t, "describe", "policy/none", "-n", ns).want(t, fault.Absent, "the cluster has no policy/none in namespace describe")
	c.run(t, "describe", "vault/primary").want(t, fault.Done, "s3://acme/primary", "Secret lockstep-system/key")
	c.run(t, "describe", "restore/shop-v1.0.0").want(t, fault.Done, "Exact: taken while this commit was running", "RTO:", "31 s",
		"3.0 MiB of 3.0 MiB", "statefulset shop/db", "Timeline", "met with 29 s to spare")
	c.run(t, "describe", "restore", "shop-v1.0.0", "-o", "json").want(t, fault.Done, `"seconds": 31`, `"rtoSeconds": 31`)
	var points v1alpha1.RestorePointList
	if err := c.List(context.Background(), &points, client.InNamespace("backup")); err != nil {
		t.Fatal(err)
	}
	for _, point := range points.Items {
		if ready(&point).Status == metav1.ConditionTrue {
			c.run(t, "describe", "point/"+point.Name, "-n", "backup").want(t, fault.Done, "20260102-030405-aaaaaaaa", "CLAIM", "Saved")
			return
		}
	}
	t.Error("the test of backup left no ready point")
}

func testCompletion(t *testing.T, c *testCluster) {
	c.run(t, "__complete", "backup", "-n", "describe", "").want(t, fault.Done, "shop\n")
	c.run(t, "__complete", "describe", "restore/shop").want(t, fault.Done, "restore/shop-v1.0.0\n")
	c.run(t, "__complete", "restore", "--vault", "").want(t, fault.Done, "primary\n")
	c.run(t, "__complete", "restore", "--point", "2026").want(t, fault.Done, "20260102-030405-aaaaaaaa\tbackup/shop\n")
}

func testWaiting(t *testing.T, c *testCluster) {
	ctx := context.Background()
	ns := c.namespace(t, "waiting")
	r := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "unknown"},
		Spec: v1alpha1.RestoreSpec{
			From: v1alpha1.RestoreFrom{Vault: "primary", Tag: "v1"}, Source: v1alpha1.GitSource{URL: "https://git.example.com/x", Path: "."},
		},
	}
	c.create(t, r)
	r.Status.Conditions = []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPointUnknown, "the listing was cut short"),
	}
	c.setStatus(t, r)
	w := waiter{client: c, now: time.Now, every: 10 * time.Millisecond, silent: 100 * time.Millisecond}
	err := w.wait(ctx, "restore/unknown", r, func() {})
	if fault.CodeOf(err) != fault.Unknown || !strings.Contains(err.Error(), "PointUnknown: the listing was cut short") {
		t.Errorf("a vault that stays unknown: %v", err)
	}

	orphan := r.DeepCopy()
	orphan.ObjectMeta, orphan.Status = metav1.ObjectMeta{Namespace: ns, Name: "orphan"}, v1alpha1.RestoreStatus{}
	c.create(t, orphan)
	err = w.wait(ctx, "restore/orphan", orphan, func() {})
	if fault.CodeOf(err) != fault.Unknown || !strings.Contains(err.Error(), "the controller has not looked at it yet") {
		t.Errorf("with no controller: %v", err)
	}

	canceled, cancel := context.WithCancel(ctx)
	w.silent = time.Hour
	err = w.wait(canceled, "restore/unknown", r, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}

	if err := c.Delete(ctx, r); err != nil {
		t.Fatal(err)
	}
	if err := w.wait(ctx, "restore/unknown", r, func() {}); !apierrors.IsNotFound(err) {
		t.Errorf("deleted meanwhile: %v", err)
	}
}

package cmd

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func (p *Program) statusCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether everything is protected and nothing is stuck",
		Long: `Tell how the vaults, the policies, the deploys that wait for their restore point, and the unfinished and failed points and restores stand, of all namespaces or of that
of -n.

The exit code is 0 only if all is well: every vault is open, every policy protects, has a point and keeps its RPO, and no
point or restore has failed without a later one that succeeded, and no deploy is blocked. A policy whose first point is not due yet, as after a restore, or
is being taken, is said to be pending, and counts as well.`,
		Args: cobra.NoArgs,
		RunE: runs(func(ctx context.Context, _ []string) error { return p.status(ctx, format) }),
	}
	format.AddFlag(cmd)
	return cmd
}

// statusReport is what "status" prints.
type statusReport struct {
	Well bool `json:"well"`
	// Problems say what is not well, in words.
	Problems []string       `json:"problems"`
	Vaults   []vaultView    `json:"vaults"`
	Policies []policyStatus `json:"policies"`
	// Deploys are those that wait for their restore point.
	Deploys []deployStatus `json:"deploys"`
	// Work are the points and restores that are not finished, and those that failed without a later success.
	Work []workStatus `json:"work"`
}

type policyStatus struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Ready     string       `json:"ready"`
	Reason    string       `json:"reason"`
	Message   string       `json:"message,omitempty"`
	Claims    int          `json:"claims"`
	LastPoint *metav1.Time `json:"lastPoint,omitempty"`
	// AgeSeconds is the age of the data of the last good point, RPOSeconds what was promised.
	AgeSeconds *int64 `json:"ageSeconds,omitempty"`
	RPOSeconds *int64 `json:"rpoSeconds,omitempty"`
	RPOKept    *bool  `json:"rpoKept,omitempty"`
	// Pending says that the first point is not due yet, or being taken; FirstDue is when it must be there.
	Pending  bool         `json:"pending,omitempty"`
	FirstDue *metav1.Time `json:"firstDue,omitempty"`
}

type workStatus struct {
	Kind      string      `json:"kind"`
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	Ready     string      `json:"ready"`
	Reason    string      `json:"reason"`
	Message   string      `json:"message,omitempty"`
	Created   metav1.Time `json:"created"`
	Failed    bool        `json:"failed"`
}

func (p *Program) status(ctx context.Context, format output.Format) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	report, err := readStatus(ctx, c, p.cluster.Namespace, p.Now())
	if err != nil {
		return err
	}
	found, err := gates(ctx, c)
	if err != nil {
		return err
	}
	report.deploys(found, p.cluster.Namespace)
	if err := format.Print(p.Out, report, func(w io.Writer) error { return report.write(w, p.Now()) }); err != nil {
		return err
	}
	if !report.Well {
		return fault.New(fault.Failed, "See: lockstep describe KIND/NAME -n NAMESPACE",
			"%s", output.Count(len(report.Problems), "thing is not well", "things are not well"))
	}
	return nil
}

// readStatus reads the state of a namespace, or of all if it is empty. Vaults belong to all.
func readStatus(ctx context.Context, c client.Reader, namespace string, now time.Time) (*statusReport, error) {
	var vaults v1alpha1.VaultList
	var policies v1alpha1.ProtectionPolicyList
	var points v1alpha1.RestorePointList
	var restores v1alpha1.RestoreList
	var claims corev1.PersistentVolumeClaimList
	for _, list := range []client.ObjectList{&vaults, &policies, &points, &restores, &claims} {
		if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("reading the status: %w", err)
		}
	}
	r := &statusReport{Problems: []string{}, Vaults: []vaultView{}, Policies: []policyStatus{}, Deploys: []deployStatus{}, Work: []workStatus{}}
	if len(vaults.Items) == 0 {
		r.problem("there is no vault: nothing is protected")
	}
	for i := range vaults.Items {
		r.vault(&vaults.Items[i])
	}
	for i := range policies.Items {
		r.policy(&policies.Items[i], points.Items, now)
	}
	work := make([]task, 0, len(points.Items)+len(restores.Items))
	for i := range points.Items {
		p := &points.Items[i]
		work = append(work, task{"point", p, p.Namespace + "/" + p.Spec.PolicyRef.Name})
	}
	for i := range restores.Items {
		p := &restores.Items[i]
		work = append(work, task{"restore", p, p.Namespace + " " + p.Spec.Source.URL + " " + p.Spec.Source.Path + fmt.Sprint(p.Spec.Volumes, p.Spec.Only)})
	}
	r.work(work)
	r.populations(claims.Items)
	r.Well = len(r.Problems) == 0
	return r, nil
}

// populations names the claims that look for their data by themselves, and do not get it.
func (r *statusReport) populations(claims []corev1.PersistentVolumeClaim) {
	for _, c := range claims {
		text := c.Annotations[v1alpha1.AnnotationPopulation]
		switch reason, _, _ := strings.Cut(text, ":"); reason {
		case "", "Populated", "Restoring", "StartsEmpty", "Waiting":
		default:
			r.problem("pvc/%s -n %s: %s", c.Name, c.Namespace, text)
		}
	}
}

func (r *statusReport) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *statusReport) vault(v *v1alpha1.Vault) {
	view := viewVault(v)
	r.Vaults = append(r.Vaults, view)
	if view.Ready != string(corev1.ConditionTrue) {
		r.problem("vault/%s is not ready: %s", v.Name, sentence(view.Reason, view.Message))
	}
}

func (r *statusReport) policy(p *v1alpha1.ProtectionPolicy, points []v1alpha1.RestorePoint, now time.Time) {
	c := ready(p)
	s := policyStatus{
		Namespace: p.Namespace, Name: p.Name, Ready: string(c.Status), Reason: c.Reason, Message: c.Message,
		Claims: len(p.Status.Claims),
	}
	name := "policy/" + p.Name + " -n " + p.Namespace
	if c.Status != metav1.ConditionTrue {
		r.problem("%s does not protect: %s", name, sentence(c.Reason, c.Message))
	}
	switch last := p.Status.LastPoint; {
	case last != nil:
		s.LastPoint = &last.Taken
		s.AgeSeconds = new(int64(now.Sub(last.Taken.Time) / time.Second))
	case c.Status == metav1.ConditionTrue && now.Before(firstDue(p)):
		s.Pending, s.FirstDue = true, &metav1.Time{Time: firstDue(p)}
	case c.Status == metav1.ConditionTrue && firstUnderWay(p, points):
		s.Pending = true
	default:
		r.problem("%s has no point yet", name)
	}
	if o := p.Spec.Objectives; o != nil && o.RPO != nil {
		s.RPOSeconds = new(int64(o.RPO.Duration / time.Second))
		if !s.Pending {
			s.RPOKept = new(s.AgeSeconds != nil && *s.AgeSeconds <= *s.RPOSeconds)
		}
		if s.AgeSeconds != nil && !*s.RPOKept {
			r.problem("%s breaks its RPO of %s: the last good point is %s old", name, output.Duration(o.RPO.Duration),
				output.Duration(now.Sub(s.LastPoint.Time)))
		}
	}
	r.Policies = append(r.Policies, s)
}

// firstDue is when a policy that has asked for no point yet must have its first: at its first scheduled moment, and before its
// RPO, counted from its creation, is over. It is zero if neither says so.
func firstDue(p *v1alpha1.ProtectionPolicy) time.Time {
	if p.Status.LastRun != nil {
		return time.Time{}
	}
	due := moment(p.Status.NextRun)
	if o := p.Spec.Objectives; o != nil && o.RPO != nil {
		if promised := p.CreationTimestamp.Add(o.RPO.Duration); due.IsZero() || promised.Before(due) {
			due = promised
		}
	}
	return due
}

// firstUnderWay reports that the only point of a policy is being taken.
func firstUnderWay(p *v1alpha1.ProtectionPolicy, points []v1alpha1.RestorePoint) bool {
	points = slices.DeleteFunc(slices.Clone(points), func(point v1alpha1.RestorePoint) bool {
		return point.Namespace != p.Namespace || point.Spec.PolicyRef.Name != p.Name
	})
	return len(points) == 1 && !finished(&points[0]) && !unknowable(&points[0])
}

// task is a point or a restore. A later success with the same subject makes up for a failure.
type task struct {
	kind    string
	object  conditioned
	subject string
}

func (t task) created() time.Time { return t.object.GetCreationTimestamp().Time }

func (r *statusReport) work(tasks []task) {
	succeeded := map[string]time.Time{}
	for _, t := range tasks {
		key := t.kind + " " + t.subject
		if ready(t.object).Status == metav1.ConditionTrue && t.created().After(succeeded[key]) {
			succeeded[key] = t.created()
		}
	}
	slices.SortFunc(tasks, func(a, b task) int {
		return cmp.Or(a.created().Compare(b.created()), cmp.Compare(a.object.GetName(), b.object.GetName()))
	})
	for _, t := range tasks {
		c := ready(t.object)
		failed := stalled(t.object)
		if c.Status == metav1.ConditionTrue || failed && t.created().Before(succeeded[t.kind+" "+t.subject]) {
			continue
		}
		s := workStatus{
			Kind: t.kind, Namespace: t.object.GetNamespace(), Name: t.object.GetName(), Ready: string(c.Status),
			Reason: c.Reason, Message: c.Message, Created: t.object.GetCreationTimestamp(), Failed: failed,
		}
		r.Work = append(r.Work, s)
		switch name := s.Kind + "/" + s.Name + " -n " + s.Namespace; {
		case failed:
			r.problem("%s has failed: %s", name, sentence(c.Reason, c.Message))
		case unknowable(t.object):
			r.problem("%s cannot go on: %s", name, sentence(c.Reason, c.Message))
		}
	}
}

func (r *statusReport) write(w io.Writer, now time.Time) error {
	vaults := make([][]string, len(r.Vaults))
	for i, v := range r.Vaults {
		vaults[i] = []string{v.Name, v.Ready, v.Reason, strconv.Itoa(int(v.Points)), output.Ago(now, moment(v.Checked))}
	}
	policies := make([][]string, len(r.Policies))
	for i, s := range r.Policies {
		policies[i] = []string{
			s.Namespace, s.Name, s.Ready, s.Reason, strconv.Itoa(s.Claims), s.lastPoint(now), s.objective(),
		}
	}
	work := make([][]string, len(r.Work))
	for i, s := range r.Work {
		work[i] = []string{s.Namespace, s.Kind + "/" + s.Name, s.Reason, output.Ago(now, s.Created.Time), s.Message}
	}
	d := &description{now: now}
	d.table("Vaults", []string{"NAME", "READY", "REASON", "POINTS", "CHECKED"}, vaults)
	d.table("Policies", []string{"NAMESPACE", "NAME", "READY", "REASON", "CLAIMS", "LAST POINT", "RPO"}, policies)
	deploys := make([][]string, len(r.Deploys))
	for i, s := range r.Deploys {
		deploys[i] = []string{
			s.Namespace, s.Kind + "/" + s.Name, shortRevision(s.From), shortRevision(s.To), output.Ago(now, moment(s.Since)), strings.Join(s.Points, ", "), s.Why,
		}
	}
	d.table("Deploys that wait", []string{"NAMESPACE", "NAME", "FROM", "TO", "SINCE", "POINT", "WHY"}, deploys)
	d.table("Unfinished and failed", []string{"NAMESPACE", "NAME", "REASON", "BEGUN", "MESSAGE"}, work)
	if err := d.write(w); err != nil {
		return err
	}
	if r.Well {
		_, err := fmt.Fprintln(w, "\nAll is well.")
		return err
	}
	fmt.Fprintln(w, "\nNot well")
	for _, problem := range r.Problems {
		fmt.Fprintf(w, "  - %s\n", problem)
	}
	return nil
}

func (s policyStatus) lastPoint(now time.Time) string {
	switch {
	case s.FirstDue != nil:
		return "none; the first is due in " + output.Duration(s.FirstDue.Sub(now))
	case s.Pending:
		return "none; the first is being taken"
	}
	return output.Ago(now, moment(s.LastPoint))
}

func (s policyStatus) objective() string {
	if s.RPOSeconds == nil {
		return "-"
	}
	promise := output.Duration(time.Duration(*s.RPOSeconds) * time.Second)
	switch {
	case s.Pending:
		return promise + ", pending"
	case *s.RPOKept:
		return promise + ", kept"
	}
	return promise + ", BROKEN"
}

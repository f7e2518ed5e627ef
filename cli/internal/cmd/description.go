package cmd

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// description gathers what "describe" tells of one thing.
type description struct {
	now    time.Time
	fields [][]string
	tables []section
}

type section struct {
	title  string
	header []string
	rows   [][]string
}

func (d *description) field(name, value string) {
	if value != "" {
		d.fields = append(d.fields, []string{name + ":", value})
	}
}

func (d *description) table(title string, header []string, rows [][]string) {
	if len(rows) > 0 {
		d.tables = append(d.tables, section{title, header, rows})
	}
}

func (d *description) write(w io.Writer) error {
	if err := output.Rows(w, nil, d.fields); err != nil {
		return err
	}
	for i, t := range d.tables {
		if i > 0 || len(d.fields) > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, t.title)
		if err := t.write(w); err != nil {
			return err
		}
	}
	return nil
}

// write writes the rows moved to the right, below the title.
func (t section) write(w io.Writer) error {
	var rows strings.Builder
	if err := output.Rows(&rows, t.header, t.rows); err != nil {
		return err
	}
	for line := range strings.Lines(rows.String()) {
		if _, err := io.WriteString(w, "  "+line); err != nil {
			return err
		}
	}
	return nil
}

func (d *description) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return output.Time(t) + " (" + output.Ago(d.now, t) + ")"
}

func (d *description) revision(r *v1alpha1.Revision) {
	if r == nil {
		return
	}
	d.field("Repository", r.Repository)
	d.field("Path", r.Path)
	d.field("Commit", r.Commit+parenthesised(r.Ref))
	d.field("Tree", r.Tree)
}

// state tells how an object stands, and whether that will change by itself.
func (d *description) state(o conditioned) {
	c := ready(o)
	d.field("Ready", string(c.Status)+", "+sentence(c.Reason, c.Message))
	if stalled(o) {
		d.field("Stalled", "nothing changes until a person mends this")
	}
}

func (d *description) object(kind string, o metav1.Object) {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	d.field(kind, name)
}

func (d *description) vault(v *v1alpha1.Vault) {
	d.object("Vault", v)
	d.state(v)
	if url, err := vault.URL(v.Spec); err == nil {
		d.field("URL", url)
	}
	d.field("ID", v.Status.ID)
	d.field("Points", strconv.Itoa(int(v.Status.Points)))
	d.field("Key", "Secret "+v1alpha1.SystemNamespace+"/"+v.Spec.KeySecretRef.Name)
	d.field("Checked", d.when(moment(v.Status.CheckedAt)))
}

func (d *description) policy(p *v1alpha1.ProtectionPolicy) {
	d.object("Policy", p)
	d.state(p)
	d.field("Vaults", strings.Join(p.Spec.Vaults, ", "))
	d.field("Running", strings.TrimSpace(p.Annotations[v1alpha1.AnnotationRevision]))
	d.field("Repository", p.Annotations[v1alpha1.AnnotationRepository])
	d.field("Path", p.Annotations[v1alpha1.AnnotationPath])
	schedule := p.Spec.Schedule
	if schedule == "" {
		schedule = "none: points are made by hand"
	} else if p.Spec.TimeZone != "" {
		schedule += " (" + p.Spec.TimeZone + ")"
	}
	if p.Spec.Suspend {
		schedule += ", suspended"
	}
	d.field("Schedule", schedule)
	d.field("Next run", d.when(moment(p.Status.NextRun)))
	if o := p.Spec.Objectives; o != nil {
		d.field("RPO", promised(o.RPO))
		d.field("RTO", promised(o.RTO))
	}
	d.field("Last point", "none")
	if last := p.Status.LastPoint; last != nil {
		d.fields[len(d.fields)-1][1] = last.Name + ", taken " + d.when(last.Taken.Time) + ", commit " + short(last.Commit)
	}
	rows := make([][]string, len(p.Status.Claims))
	for i, c := range p.Status.Claims {
		rows[i] = []string{c}
	}
	d.table("Protected claims", nil, rows)
}

func promised(d *metav1.Duration) string {
	if d == nil {
		return ""
	}
	return output.Duration(d.Duration)
}

func (d *description) point(p *v1alpha1.RestorePoint) {
	d.object("RestorePoint", p)
	d.state(p)
	d.field("Policy", p.Spec.PolicyRef.Name)
	d.field("Trigger", string(p.Spec.Trigger))
	d.field("Before", p.Spec.Before)
	d.field("ID", p.Status.ID)
	d.revision(p.Status.Revision)
	d.field("Started", d.when(moment(p.Status.StartedAt)))
	d.field("Taken", d.when(moment(p.Status.Taken)))
	d.field("Completed", d.when(moment(p.Status.CompletedAt)))
	if r := p.Status.Residual; r != nil {
		d.field("Secrets", output.Count(int(r.Secrets), "Secret that Git does not hold", "Secrets that Git does not hold"))
	}
	for _, c := range p.Status.Copies {
		d.field("In vault", c.Vault+", verified "+d.when(c.VerifiedAt.Time))
	}
	rows := make([][]string, len(p.Status.Volumes))
	for i, v := range p.Status.Volumes {
		rows[i] = []string{v.Claim, string(v.State), output.Bytes(v.Bytes), output.Bytes(v.Stored), fmt.Sprint(v.Files), v.Snapshot, v.Message}
	}
	d.table("Volumes", []string{"CLAIM", "STATE", "DATA", "NEW", "FILES", "SNAPSHOT", "MESSAGE"}, rows)
}

func (d *description) restore(r *v1alpha1.Restore) {
	d.object("Restore", r)
	d.state(r)
	d.field("Vault", r.Spec.From.Vault)
	d.field("Asked for", wanted(r.Spec.From))
	d.revision(r.Status.Revision)
	if c := r.Status.Point; c != nil {
		d.field("Point", c.ID+", taken "+d.when(c.Taken.Time)+", commit "+short(c.Commit))
		d.field("Chosen", c.Match+": "+c.Message)
	}
	d.field("Started", d.when(moment(r.Status.StartedAt)))
	d.field("Completed", d.when(moment(r.Status.CompletedAt)))
	if rto, ok := recoveryTime(r); ok {
		d.field("RTO", output.Duration(rto))
	}
	volumes := make([][]string, len(r.Status.Volumes))
	for i, v := range r.Status.Volumes {
		volumes[i] = []string{v.Namespace + "/" + v.Claim, string(v.State), output.Bytes(v.Progress) + " of " + output.Bytes(v.Bytes), v.Message}
	}
	d.table("Volumes", []string{"CLAIM", "STATE", "WRITTEN", "MESSAGE"}, volumes)
	workloads := make([][]string, len(r.Status.Workloads))
	for i, l := range r.Status.Workloads {
		workloads[i] = []string{workloadName(l), string(l.State), dash(strings.Join(l.WaitsFor, ", ")), l.Message}
	}
	d.table("Workloads", []string{"WORKLOAD", "STATE", "WAITS FOR", "MESSAGE"}, workloads)
	var times [][]string
	for _, e := range timeline(r) {
		times = append(times, []string{e.after(r), e.what})
	}
	d.table("Timeline", nil, times)
}

func wanted(f v1alpha1.RestoreFrom) string {
	switch {
	case f.Tag != "":
		return "tag " + f.Tag
	case f.Commit != "":
		return "commit " + f.Commit
	case f.RestorePoint != "":
		return "point " + f.RestorePoint
	case f.Before != nil:
		return "the newest point before " + output.Time(f.Before.Time)
	default:
		return ""
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func workloadName(l v1alpha1.WorkloadRestore) string {
	return strings.ToLower(l.Kind) + " " + l.Namespace + "/" + l.Name
}

// recoveryTime is what a finished restore took.
func recoveryTime(r *v1alpha1.Restore) (time.Duration, bool) {
	if r.Status.StartedAt == nil || r.Status.CompletedAt == nil {
		return 0, false
	}
	return r.Status.CompletedAt.Sub(r.Status.StartedAt.Time), true
}

// event is one measured moment of a restore.
type event struct {
	at   time.Time
	what string
}

func (e event) after(r *v1alpha1.Restore) string {
	return fmt.Sprintf("+%d s", int(e.at.Sub(moment(r.Status.StartedAt)).Seconds()))
}

// timeline is every measured moment of a restore in order.
func timeline(r *v1alpha1.Restore) []event {
	var all []event
	add := func(at *metav1.Time, format string, args ...any) {
		if at != nil && r.Status.StartedAt != nil {
			all = append(all, event{at.Time, fmt.Sprintf(format, args...)})
		}
	}
	s := r.Status
	add(s.StartedAt, "begun")
	add(s.ReservedAt, "every claim is reserved")
	for _, l := range s.Workloads {
		add(l.ReleasedAt, "%s is released", workloadName(l))
	}
	for _, v := range s.Volumes {
		add(v.HydratedAt, "volume %s/%s is filled and verified, %s", v.Namespace, v.Claim, output.Bytes(v.Bytes))
		add(v.BoundAt, "volume %s/%s is bound", v.Namespace, v.Claim)
	}
	add(s.BoundAt, "every volume is bound")
	for _, l := range s.Workloads {
		add(l.HealthyAt, "%s is healthy", workloadName(l))
	}
	add(s.CompletedAt, "everything is healthy")
	slices.SortStableFunc(all, func(a, b event) int { return a.at.Compare(b.at) })
	return all
}

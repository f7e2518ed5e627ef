package plan_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// selected plans volumes alone, out of a point with two.
func selected(t *testing.T, change func(*plan.Input, *point.Record), asked ...v1alpha1.VolumeRequest) *plan.Plan {
	t.Helper()
	data, wal := volume("data-db-0", "3Gi"), volume("wal-db-0", "1Gi")
	data.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "ProtectionPolicy", Name: "shop"}
	in := plan.Input{Choice: choice(data, wal), Facts: facts()}
	in.Facts.Namespaces["shop"] = true
	if change != nil {
		change(&in, &in.Choice.Record)
	}
	in.Selection = plan.Select(in.Choice.Record, asked)
	in.Choice.Record = in.Selection.Record
	return mustPlan(t, in)
}

func TestVolumesAlone(t *testing.T) {
	p := selected(t, nil, v1alpha1.VolumeRequest{Claim: "shop/wal-db-0"}, v1alpha1.VolumeRequest{Claim: "shop/data-db-0", As: "shop/look"})
	if len(p.Refusals) > 0 || p.ReplaysCommit() || p.Residual != (plan.Residual{}) || len(p.Claims) != 2 || len(p.Groups) != 2 {
		t.Fatalf("planned %+v", p)
	}
	look, own := p.Claims[0], p.Claims[1]
	if look.Name.String() != "shop/look" || look.From.String() != "shop/data-db-0" || look.Snapshot != "5adata-db-00123456789abcdef" ||
		look.Size != 3<<30 || look.Target.Spec.DataSourceRef != nil || look.Target.Labels != nil || look.Target.Annotations != nil {
		t.Errorf("under a new name: %+v, target %+v", look, look.Target)
	}
	if own.Name.String() != "shop/wal-db-0" || own.From != (object.Name{}) || own.Target.Labels["captured"] != "yes" ||
		own.Target.Annotations["team"] != "shop" || own.Target.Spec.VolumeName != "" {
		t.Errorf("under its own name: %+v, target %+v", own, own.Target)
	}
	text := p.Text()
	for _, want := range []string{"Restore 2 volumes of shop/shop and replay no commit", "(of claim shop/data-db-0)", "shop/wal-db-0"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text does not say %q:\n%s", want, text)
		}
	}
	for _, other := range []string{"First", "Workloads", "Git"} {
		if strings.Contains(text, other) {
			t.Errorf("the text speaks of %q:\n%s", other, text)
		}
	}
}

func TestVolumesAloneAreRefused(t *testing.T) {
	home := func(in *plan.Input, _ *point.Record) { in.Facts.RestoreNamespace = "shop" }
	own := v1alpha1.VolumeRequest{Claim: "shop/data-db-0"}
	tests := []struct {
		name   string
		change func(*plan.Input, *point.Record)
		asked  []v1alpha1.VolumeRequest
		want   []string
	}{
		{"not held", nil, []v1alpha1.VolumeRequest{{Claim: "shop/other"}},
			[]string{"point 20260301-040000-1a2b3c4d holds no volume of claim shop/other; it holds shop/data-db-0, shop/wal-db-0"}},
		{"twice", nil, []v1alpha1.VolumeRequest{{Claim: "shop/data-db-0", As: "shop/look"}, {Claim: "shop/wal-db-0", As: "shop/look"}},
			[]string{"claim shop/look is asked for twice: from shop/data-db-0 and from shop/wal-db-0"}},
		{"bound", func(in *plan.Input, _ *point.Record) {
			in.Facts.Claims[object.Name{Namespace: "shop", Name: "data-db-0"}] = plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming("pv")}
		}, []v1alpha1.VolumeRequest{own}, []string{"claim shop/data-db-0 is bound to volume pv"}},
		{"pending", func(in *plan.Input, _ *point.Record) {
			in.Facts.Claims[object.Name{Namespace: "shop", Name: "data-db-0"}] = plan.ClaimFact{Phase: corev1.ClaimPending, Spec: asking("fast", "0")}
		}, []v1alpha1.VolumeRequest{own}, nil},
		{"no namespace", nil, []v1alpha1.VolumeRequest{{Claim: "shop/data-db-0", As: "lab/look"}}, []string{`namespace "lab" does not exist, or is being deleted; create it`}},
		{"at home", home, []v1alpha1.VolumeRequest{own}, nil},
		{"to elsewhere", func(in *plan.Input, r *point.Record) { home(in, r); in.Facts.Namespaces["lab"] = true },
			[]v1alpha1.VolumeRequest{{Claim: "shop/data-db-0", As: "lab/look"}}, []string{"PersistentVolumeClaim lab/look is outside namespace shop"}},
		{"another namespace's data", func(in *plan.Input, r *point.Record) { home(in, r); r.Volumes[0].Namespace = "bank" },
			[]v1alpha1.VolumeRequest{{Claim: "bank/data-db-0", As: "shop/look"}}, []string{"PersistentVolumeClaim bank/data-db-0 is outside namespace shop"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := selected(t, tt.change, tt.asked...).Refusals
			if !slices.EqualFunc(got, tt.want, func(got, want string) bool { return strings.Contains(got, want) }) {
				t.Errorf("refused for %q, want %q", got, tt.want)
			}
		})
	}
}

package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

var update = flag.Bool("update", false, "write the golden files")

func parse(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("parsing manifests: %v", err)
		}
		out = append(out, u)
	}
}

func shop(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(data))
}

func volume(claim string, capacity string) point.Volume {
	size := resource.MustParse(capacity)
	return point.Volume{
		Namespace: "shop", Claim: claim, Capacity: size.Value(), Snapshot: "5a" + claim + "0123456789abcdef", Bytes: 3 << 20, Files: 12,
		ContentRoot: "content-" + claim, MetaRoot: "meta-" + claim,
		Labels:      map[string]string{"captured": "yes"},
		Annotations: map[string]string{"volume.kubernetes.io/selected-node": "gone", "team": "shop"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeName:  "pvc-of-the-old-cluster",
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func choice(volumes ...point.Volume) match.Choice {
	return match.Choice{
		Record: point.Record{
			Version: 1, ID: "20260301-040000-1a2b3c4d", Application: "shop/shop", Revision: revision(),
			Taken: time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC), Volumes: volumes,
		},
		Match: match.Exact, Reason: "newest of 2 points of commit 0123456789ab",
	}
}

func revision() v1alpha1.Revision {
	return v1alpha1.Revision{
		Repository: "https://git.example.org/shop.git", Ref: "v1.0.0", Commit: "0123456789abcdef0123456789abcdef01234567",
		Path: "deploy", Tree: "aaaabbbbccccddddeeeeffff0000111122223333",
	}
}

func facts() plan.Facts {
	kinds := map[schema.GroupKind]plan.KindFact{}
	for _, k := range []string{
		"Service.", "PersistentVolumeClaim.", "Secret.", "Deployment.apps", "StatefulSet.apps", "CronJob.batch", "ProtectionPolicy.lockstep.dev",
		"RoleBinding.rbac.authorization.k8s.io",
	} {
		kinds[schema.ParseGroupKind(k)] = plan.KindFact{Namespaced: true}
	}
	for _, k := range []string{"Namespace.", "CustomResourceDefinition.apiextensions.k8s.io"} {
		kinds[schema.ParseGroupKind(k)] = plan.KindFact{}
	}
	return plan.Facts{
		Claims:           map[object.Name]plan.ClaimFact{},
		StorageClasses:   map[string]plan.ClassFact{"fast": {WaitForFirstConsumer: true}, "slow": {Default: true}},
		Namespaces:       map[string]bool{},
		Kinds:            kinds,
		RestoreUID:       "mine",
		RestoreNamespace: v1alpha1.SystemNamespace,
	}
}

func input(t *testing.T) plan.Input {
	t.Helper()
	return plan.Input{
		Choice: choice(volume("data-db-0", "2Gi"), volume("wal-db-0", "3Gi"), volume("data-db-1", "2Gi"), volume("data-db-2", "2Gi"),
			volume("cache", "512Mi"), volume("attic", "1Gi")),
		Revision: revision(), Objects: shop(t), Facts: facts(),
		Residual: []object.Key{{Kind: "Secret", Namespace: "shop", Name: "login"}},
	}
}

func mustPlan(t *testing.T, in plan.Input) *plan.Plan {
	t.Helper()
	p, err := plan.New(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestGolden(t *testing.T) {
	tests := []struct {
		file   string
		change func(*plan.Input)
	}{
		{"shop.txt", func(*plan.Input) {}},
		{"bare-cluster.txt", func(in *plan.Input) { in.Facts = plan.Facts{} }},
		{"refused.txt", func(in *plan.Input) {
			in.Facts.Claims[object.Name{Namespace: "shop", Name: "cache"}] = plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming("pvc-1")}
			in.Facts.StorageClasses = map[string]plan.ClassFact{"slow": {Default: true}, "other": {}}
		}},
		{"nothing.txt", func(in *plan.Input) {
			in.Objects, in.Choice.Record.Volumes, in.Residual = nil, nil, nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			in := input(t)
			tt.change(&in)
			golden(t, tt.file, mustPlan(t, in).Text())
		})
	}
}

// TestJSONHoldsNoManifest keeps the Secrets that Git holds out of what a dry run prints.
func TestJSONHoldsNoManifest(t *testing.T) {
	in := input(t)
	in.Objects = append(in.Objects, parse(t, `{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: shop}, stringData: {password: hunter2}}`)...)
	data, err := json.MarshalIndent(mustPlan(t, in), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "hunter2") {
		t.Error("the plan prints a Secret's value")
	}
	golden(t, "shop.json", string(data)+"\n")
}

func TestTargets(t *testing.T) {
	p := mustPlan(t, input(t))
	tests := []struct {
		claim  string
		origin plan.Origin
		size   string
		class  string
		labels map[string]string
		asks   string
	}{
		{"cache", plan.OriginGit, "1Gi", "slow", map[string]string{"app": "redis", "captured": "yes"}, "1Gi"},
		{"data-db-0", plan.OriginTemplate, "2Gi", "fast", map[string]string{"app": "db", "captured": "yes"}, "2Gi"},
		{"wal-db-0", plan.OriginTemplate, "3Gi", "slow", map[string]string{"app": "db", "captured": "yes"}, "1Gi"},
		{"attic", plan.OriginPoint, "1Gi", "slow", map[string]string{"captured": "yes"}, "1Gi"},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			c := p.Claim(object.Name{Namespace: "shop", Name: tt.claim})
			if c == nil {
				t.Fatal("not planned")
			}
			size := resource.MustParse(tt.size)
			if c.Origin != tt.origin || c.Size != size.Value() || c.StorageClass != tt.class {
				t.Errorf("got origin %s, size %d, class %s", c.Origin, c.Size, c.StorageClass)
			}
			if diff := cmp.Diff(tt.labels, c.Target.Labels); diff != "" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{"team": "shop"}, c.Target.Annotations); diff != "" {
				t.Errorf("annotations (-want +got):\n%s", diff)
			}
			if got := c.Target.Spec.Resources.Requests.Storage().String(); got != tt.asks {
				t.Errorf("asks for %s, want Git's %s", got, tt.asks)
			}
			if c.Target.Spec.VolumeName != "" {
				t.Errorf("still names volume %q", c.Target.Spec.VolumeName)
			}
		})
	}
}

// TestGroups: one mover pod for each consumer pod, in an order that only the point decides.
func TestGroups(t *testing.T) {
	p := mustPlan(t, input(t))
	got := map[int][]string{}
	for _, g := range p.Groups {
		for _, name := range g.Claims {
			got[g.Index] = append(got[g.Index], name.Name)
		}
	}
	want := map[int][]string{0: {"attic"}, 1: {"cache"}, 2: {"data-db-0", "wal-db-0"}, 3: {"data-db-1"}, 4: {"data-db-2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	for _, g := range p.Groups {
		if g.Index == 2 && (g.NodeSelector["disk"] != "fast" || len(g.Tolerations) != 1) {
			t.Errorf("the group runs where its consumer cannot: %v", g)
		}
	}
	in := input(t)
	in.Objects = append(in.Objects, parse(t, `{apiVersion: v1, kind: Pod, metadata: {name: both, namespace: shop},
		spec: {volumes: [{name: a, persistentVolumeClaim: {claimName: cache}}, {name: b, persistentVolumeClaim: {claimName: wal-db-0}}]}}`)...)
	p = mustPlan(t, in)
	for _, claim := range []string{"cache", "data-db-0", "wal-db-0"} {
		if c := p.Claim(object.Name{Namespace: "shop", Name: claim}); c.Group != 1 {
			t.Errorf("%s is in group %d, though one pod mounts claims of both", claim, c.Group)
		}
	}
}

func TestRefusals(t *testing.T) {
	data := object.Name{Namespace: "shop", Name: "data-db-0"}
	existing := func(f plan.ClaimFact) func(*plan.Input) {
		return func(in *plan.Input) { in.Facts.Claims[data] = f }
	}
	render := func(manifest string) func(*plan.Input) {
		return func(in *plan.Input) { in.Objects = append(in.Objects, parse(t, manifest)...) }
	}
	claim := func(spec string) func(*plan.Input) {
		return render(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data-db-0, namespace: shop}, spec: ` + spec + `}`)
	}
	// atHome is a Restore in the application's own namespace.
	atHome := func(in *plan.Input) {
		in.Facts.RestoreNamespace, in.Facts.Kinds, in.Facts.Namespaces = "shop", nil, nil
		in.Objects = slices.DeleteFunc(in.Objects, object.IsDefinition)
	}
	tests := []struct {
		name   string
		change func(*plan.Input)
		want   string // part of the one refusal; "" for none
	}{
		{"an empty cluster", func(*plan.Input) {}, ""},
		{"bound", existing(plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming("pvc-9")}), "claim shop/data-db-0 is bound to volume pvc-9"},
		{"lost", existing(plan.ClaimFact{Phase: corev1.ClaimLost, Spec: naming("pvc-9")}), "never overwrites"},
		{"bound by this restore", existing(plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming("pvc-9"), RestoreUID: "mine"}), ""},
		{"being deleted", existing(plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming("pvc-9"), Deleting: true}), ""},
		{"pending", existing(plan.ClaimFact{Phase: corev1.ClaimPending, Spec: asking("fast", "2Gi")}), ""},
		{"pending and too large", existing(plan.ClaimFact{Phase: corev1.ClaimPending, Spec: asking("fast", "3Gi")}), "asks for 3 GiB"},
		{"pending, reserved for something", existing(plan.ClaimFact{Phase: corev1.ClaimPending, Spec: naming("nfs")}), "reserved for volume nfs"},
		{"reserved by another restore", existing(plan.ClaimFact{Phase: corev1.ClaimPending, Spec: naming("pvc-2"), RestoreUID: "other"}), "restore that is gone (UID other)"},
		{"reserved by another restore that lives", existing(plan.ClaimFact{
			Phase: corev1.ClaimPending, Spec: naming("pvc-2"), RestoreUID: "other", Restore: object.Name{Namespace: "lockstep-system", Name: "first"},
		}), "reserved by restore lockstep-system/first: wait until that one is done, or end it (kubectl -n lockstep-system delete restore first)"},
		{"residual of another namespace", func(in *plan.Input) {
			atHome(in)
			in.Residual = []object.Key{{Kind: "Secret", Namespace: "vault", Name: "root"}, {Kind: "Secret", Namespace: "shop", Name: "login"}}
		}, "holds objects of namespace vault that Git does not hold; only a Restore in lockstep-system may reach there"},
		{"residual of all namespaces", func(in *plan.Input) {
			in.Facts.RestoreNamespace = v1alpha1.SystemNamespace
			in.Residual = []object.Key{{Kind: "Secret", Namespace: "vault", Name: "root"}}
		}, ""},
		{"residual permissions", func(in *plan.Input) {
			atHome(in)
			in.Residual = []object.Key{{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding", Namespace: "shop", Name: "all"}}
		}, "RoleBinding shop/all gives permissions"},
		{"a dry run cannot own", func(in *plan.Input) {
			in.Facts.RestoreUID = ""
			existing(plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming("pvc-9")})(in)
		}, "never overwrites"},
		{"class missing", func(in *plan.Input) {
			delete(in.Facts.StorageClasses, "fast")
			in.Choice.Record.Volumes = in.Choice.Record.Volumes[:1]
		},
			`needs storage class "fast"; the cluster has slow`},
		{"no default", func(in *plan.Input) {
			in.Facts.StorageClasses = map[string]plan.ClassFact{"fast": {}}
			in.Choice.Record.Volumes = in.Choice.Record.Volumes[4:5]
		}, "no default"},
		{"static", claim(`{accessModes: [ReadWriteOnce], storageClassName: ""}`), "asks for no storage class"},
		{"a device for what was files", claim(`{accessModes: [ReadWriteOnce], volumeMode: Block}`), "is a block device in Git, and a file system was saved"},
		{"files for what was a device", func(in *plan.Input) {
			in.Choice.Record.Volumes[0].Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
			claim(`{accessModes: [ReadWriteOnce], volumeMode: Filesystem}`)(in)
		}, "is a file system in Git, and a block device was saved"},
		{"a device", func(in *plan.Input) {
			in.Choice.Record.Volumes[0].Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
			claim(`{accessModes: [ReadWriteOnce], volumeMode: Block}`)(in)
		}, ""},
		{"one pod only", claim(`{accessModes: [ReadWriteOncePod]}`), ""},
		{"read only", claim(`{accessModes: [ReadOnlyMany]}`), "no access mode that can be written"},
		{"names a volume", claim(`{accessModes: [ReadWriteOnce], volumeName: nfs}`), `names volume "nfs"`},
		{"selects volumes", claim(`{accessModes: [ReadWriteOnce], selector: {matchLabels: {a: b}}}`), "selects volumes by label"},
		{"kind not served", render(`{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: tls, namespace: shop}}`),
			"Certificate.cert-manager.io shop/tls: this cluster does not serve the kind"},
		{"no namespace", render(`{apiVersion: v1, kind: Service, metadata: {name: web}}`), "Service web names no namespace"},
		{"namespace missing", func(in *plan.Input) { in.Objects = in.Objects[1:] }, `namespace "shop" does not exist`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t)
			tt.change(&in)
			got := mustPlan(t, in).Refusals
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("refused: %q", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("got %q, want one refusal with %q", got, tt.want)
			}
		})
	}
}

// TestReach: a Restore outside lockstep-system stays at home and hands out no permissions.
func TestReach(t *testing.T) {
	in := input(t)
	in.Facts.RestoreNamespace, in.Facts.Namespaces = "shop", map[string]bool{"shop": true}
	in.Objects = append(in.Objects[3:], parse(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: admin, namespace: shop}}`)...)
	in.Objects = append(in.Objects, parse(t, `{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: other}}`)...)
	in.Objects = append(in.Objects, parse(t, `{apiVersion: v1, kind: Namespace, metadata: {name: other}}`)...)
	in.Choice.Record.Volumes = append(in.Choice.Record.Volumes, volume("data-db-7", "2Gi"))
	in.Choice.Record.Volumes[6].Namespace = "third"
	in.Facts.Namespaces["third"] = true
	want := []string{
		"Namespace other is outside namespace shop; only a Restore in lockstep-system may reach there",
		"Secret other/login is outside namespace shop; only a Restore in lockstep-system may reach there",
		"RoleBinding shop/admin gives permissions; only a Restore in lockstep-system may do that",
		"PersistentVolumeClaim third/data-db-7 is outside namespace shop; only a Restore in lockstep-system may reach there",
	}
	if diff := cmp.Diff(want, mustPlan(t, in).Refusals); diff != "" {
		t.Errorf("refusals (-want +got):\n%s", diff)
	}
	in.Facts.RestoreNamespace = v1alpha1.SystemNamespace
	if got := mustPlan(t, in).Refusals; len(got) > 0 {
		t.Errorf("refused in lockstep-system: %q", got)
	}
}

func TestUnreadableObjects(t *testing.T) {
	for _, manifest := range []string{
		`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x, namespace: shop}, spec: {replicas: many, template: {spec: {}}}}`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data-db-0, namespace: shop}, spec: {accessModes: 7}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}`, // twice
	} {
		in := input(t)
		in.Objects = append(in.Objects, parse(t, manifest)...)
		if _, err := plan.New(in); err == nil {
			t.Errorf("%s was accepted", manifest)
		}
	}
}

// naming is the spec of a claim that names a volume, asking of one that asks for room of a class.
func naming(volume string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{VolumeName: volume}
}

func asking(class, room string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(room)},
	}}
}

// TestExistingClaimIsLeft: a claim of which the point holds nothing is not touched where it has a volume, and made where there is none.
func TestExistingClaimIsLeft(t *testing.T) {
	scratch := object.Key{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "scratch"}
	for _, volume := range []string{"", "pvc-7"} {
		in := input(t)
		in.Objects = parse(t, bare)
		if volume != "" {
			in.Facts.Claims[scratch.NamespacedName()] = plan.ClaimFact{Phase: corev1.ClaimBound, Spec: naming(volume)}
		}
		p := mustPlan(t, in)
		applied := slices.ContainsFunc(p.Base, func(o plan.Object) bool { return o.Key == scratch })
		left := strings.Contains(p.Text(), "shop/scratch exists and is left as it is")
		if applied == left || left != (volume != "") {
			t.Errorf("with volume %q: applied %v, said to be left %v", volume, applied, left)
		}
	}
}

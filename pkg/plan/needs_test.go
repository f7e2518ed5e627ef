package plan_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// needy has workloads that need something of everything.
const needy = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: page, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: extra, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: token, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: first}, value: 1}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: walled}, handler: walled}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {spec: {
  serviceAccountName: web, priorityClassName: first, runtimeClassName: walled,
  containers: [{name: web, envFrom: [{configMapRef: {name: page}}, {secretRef: {name: login}}, {configMapRef: {name: elsewhere}},
    {configMapRef: {name: extra, optional: true}}], env: [{name: T, valueFrom: {secretKeyRef: {name: token, key: t}}}]}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: migrate, namespace: shop, annotations: {helm.sh/hook: "pre-install,pre-upgrade"}},
  spec: {template: {spec: {containers: [{name: migrate}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: seed, namespace: shop, annotations: {argocd.argoproj.io/sync-wave: "3"}},
  spec: {template: {spec: {containers: [{name: seed}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop}, spec: {selector: {matchLabels: {a: b}}, template: {spec: {
  containers: [{name: db}]}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}]}}
`

func needyInput(t *testing.T) plan.Input {
	t.Helper()
	in := input(t)
	in.Choice, in.Objects = choice(volume("data-db-0", "1Gi")), parse(t, needy)
	in.Residual = []object.Key{{Kind: "Secret", Namespace: "shop", Name: "login"}}
	for _, k := range []string{"ConfigMap.", "ServiceAccount.", "Job.batch"} {
		in.Facts.Kinds[schema.ParseGroupKind(k)] = plan.KindFact{Namespaced: true}
	}
	for _, k := range []string{"PriorityClass.scheduling.k8s.io", "RuntimeClass.node.k8s.io"} {
		in.Facts.Kinds[schema.ParseGroupKind(k)] = plan.KindFact{}
	}
	return in
}

// TestNeeds: a workload needs what its pods cannot start without and the restore brings, and nothing else.
func TestNeeds(t *testing.T) {
	p := mustPlan(t, needyInput(t))
	got := p.Text()[strings.Index(p.Text(), "Workloads"):]
	want := `Workloads
  Deployment shop/web  after PriorityClass first, RuntimeClass walled, ConfigMap shop/page, Secret shop/login, Secret shop/token, ServiceAccount shop/web; when healthy, as declared: Job shop/migrate
  Job shop/migrate     at once
  Job shop/seed        when healthy, as declared: Deployment shop/web, StatefulSet shop/db
  StatefulSet shop/db  when its own volumes are whole: shop/data-db-0
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

// TestSamePlanSameText: neither the text nor the JSON depends on the order in which a commit's objects or a point's volumes
// come.
func TestSamePlanSameText(t *testing.T) {
	for name, in := range map[string]plan.Input{"shop": input(t), "needy": needyInput(t)} {
		t.Run(name, func(t *testing.T) {
			first := mustPlan(t, in)
			document, err := json.Marshal(first)
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				random.Shuffle(len(in.Objects), func(i, j int) { in.Objects[i], in.Objects[j] = in.Objects[j], in.Objects[i] })
				volumes := in.Choice.Record.Volumes
				random.Shuffle(len(volumes), func(i, j int) { volumes[i], volumes[j] = volumes[j], volumes[i] })
				again := mustPlan(t, in)
				if diff := cmp.Diff(first.Text(), again.Text()); diff != "" {
					t.Fatalf("text (-first +shuffled):\n%s", diff)
				}
				other, err := json.Marshal(again)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(document), string(other)); diff != "" {
					t.Fatalf("JSON (-first +shuffled):\n%s", diff)
				}
			}
		})
	}
}

// TestHooks: what no deploy runs does not come, and nothing waits for it.
func TestHooks(t *testing.T) {
	in := input(t)
	const job = `
apiVersion: batch/v1
kind: Job
metadata: {namespace: shop, name: NAME, annotations: {argocd.argoproj.io/hook: HOOK, argocd.argoproj.io/sync-wave: "-9"}}
spec: {template: {spec: {containers: [{name: a, args: [ARG]}]}}}
`
	manifests := ""
	for _, h := range [][3]string{{"migrate", "PreSync", "up"}, {"lockstep-presync", "PreSync", "--argocd-presync"}, {"burn", "PostDelete", "all"}} {
		manifests += "---" + strings.NewReplacer("NAME", h[0], "HOOK", h[1], "ARG", h[2]).Replace(job)
	}
	in.Objects = append(in.Objects, parse(t, manifests)...)
	in.Facts.Kinds[schema.GroupKind{Group: "batch", Kind: "Job"}] = plan.KindFact{Namespaced: true}
	p := mustPlan(t, in)
	if len(p.Refusals) > 0 {
		t.Fatalf("refused: %q", p.Refusals)
	}
	for _, l := range p.Workloads {
		if l.Name == "burn" || l.Name == "lockstep-presync" {
			t.Errorf("%s comes", l.Key)
		}
		for _, key := range l.After {
			if key.Name != "migrate" {
				t.Errorf("%s waits for %s", l.Key, key)
			}
		}
	}
	want := `
Left out
  Job shop/burn: a hook for PostDelete, which a deploy does not run
  Job shop/lockstep-presync: a hook that asks for the restore point of a sync by Argo CD
`
	if text := p.Text(); !strings.HasSuffix(text, want) {
		t.Errorf("text ends with %s", text[strings.Index(text, "Workloads"):])
	}
}

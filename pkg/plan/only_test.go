package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

const several = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: pull, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: foreign, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: db, namespace: shop}, imagePullSecrets: [{name: pull}]}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {selector: {app: db}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside, namespace: shop}, spec: {externalName: example.org}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: cache, namespace: shop}, spec: {accessModes: [ReadWriteOnce]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db, tier: data}}
    spec:
      serviceAccountName: db
      containers: [{name: db, image: db, envFrom: [{secretRef: {name: login}}, {configMapRef: {name: settings}}, {secretRef: {name: generated}}]}]
  volumeClaimTemplates:
  - {metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}], volumes: [{name: cache, persistentVolumeClaim: {claimName: cache}}]}
`

func TestOnly(t *testing.T) {
	record := choice(volume("data-db-0", "1Gi"), volume("data-db-1", "1Gi"), volume("cache", "1Gi")).Record
	part, err := plan.Only(parse(t, several), record, []v1alpha1.WorkloadReference{{Kind: "StatefulSet", Namespace: "shop", Name: "db"}})
	if err != nil {
		t.Fatal(err)
	}
	var kept, volumes []string
	for _, u := range part.Objects {
		kept = append(kept, object.KeyOf(u).String())
	}
	for _, v := range part.Record.Volumes {
		volumes = append(volumes, v.Key())
	}
	want := []string{"Namespace shop", "Secret shop/login", "Secret shop/pull", "ConfigMap shop/settings", "ServiceAccount shop/db", "Service shop/db", "StatefulSet shop/db"}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"shop/data-db-0", "shop/data-db-1"}, volumes); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	if part.Left != 6 {
		t.Errorf("%d objects are left alone, want 6", part.Left)
	}
	for name, want := range map[string]bool{"generated": true, "unheard-of": false} {
		if got := part.Needs(object.Key{Kind: "Secret", Namespace: "shop", Name: name}); got != want {
			t.Errorf("needs %s: %v", name, got)
		}
	}

	in := plan.Input{Choice: choice(), Revision: revision(), Objects: part.Objects, Part: part, Facts: facts()}
	in.Choice.Record = part.Record
	in.Facts.Kinds = nil
	p := mustPlan(t, in)
	if len(p.Refusals) > 0 || p.Left != 6 || len(p.Claims) != 2 || len(p.Workloads) != 1 ||
		!strings.Contains(p.Text(), "what StatefulSet shop/db needs; 6 other objects of the commit are left alone") {
		t.Errorf("plan refused for %q:\n%s", p.Refusals, p.Text())
	}
}

func TestOnlyOfWhatIsNotRendered(t *testing.T) {
	part, err := plan.Only(parse(t, several), choice().Record, []v1alpha1.WorkloadReference{{Kind: "Deployment", Namespace: "shop", Name: "db"}})
	if err != nil {
		t.Fatal(err)
	}
	in := plan.Input{Choice: choice(), Revision: revision(), Objects: part.Objects, Part: part, Facts: facts()}
	want := []string{"the commit renders no Deployment shop/db; it renders Deployment shop/web, StatefulSet shop/db"}
	if got := mustPlan(t, in).Refusals; !slices.Equal(got, want) {
		t.Errorf("refused for %q, want %q", got, want)
	}
}

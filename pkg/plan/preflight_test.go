package plan_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

const bare = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {namespace: shop, name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 2Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {namespace: shop, name: scratch}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: front}
spec:
  template:
    spec:
      serviceAccountName: reader
      imagePullSecrets: [{name: login}]
      initContainers: [{name: wait, image: registry.example.org/wait:1}]
      containers: [{name: front, image: "registry.example.org/front:1"}]
`

// small is the plan of one volume of 3 GiB, whose claim asks for 2 GiB of class fast, and an empty claim of 1 GiB of the default
// class, slow.
func small(t *testing.T, more string) *plan.Plan {
	t.Helper()
	in := input(t)
	in.Objects = parse(t, bare+more)
	in.Facts.Kinds[schema.GroupKind{Kind: "ResourceQuota"}] = plan.KindFact{Namespaced: true}
	in.Choice = choice([]point.Volume{volume("data", "3Gi")}...)
	p := mustPlan(t, in)
	if len(p.Refusals) > 0 {
		t.Fatalf("refused: %q", p.Refusals)
	}
	return p
}

func quota(namespace string, pairs ...string) plan.Quota {
	q := plan.Quota{Name: object.Name{Namespace: namespace, Name: "limits"}, Hard: corev1.ResourceList{}, Used: corev1.ResourceList{}}
	for i := 0; i < len(pairs); i += 3 {
		name := corev1.ResourceName(pairs[i])
		q.Used[name], q.Hard[name] = resource.MustParse(pairs[i+1]), resource.MustParse(pairs[i+2])
	}
	return q
}

func quotas(all ...plan.Quota) plan.Preflight { return plan.Preflight{Quotas: all} }

func class(name string, c plan.Capacity) plan.Preflight {
	c.Driver = "csi.example.org"
	return plan.Preflight{Capacity: map[string]plan.Capacity{name: c}}
}

func TestCheck(t *testing.T) {
	const gi = 1 << 30
	deployment, claims := schema.GroupKind{Group: "apps", Kind: "Deployment"}, object.Claim
	for name, c := range map[string]struct {
		known   plan.Preflight
		more    string // manifests
		refused []string
		notes   []string
	}{
		"nothing found": {},
		"not allowed": {
			known: plan.Preflight{Denied: []plan.Access{{deployment, "shop", "create"}, {claims, "shop", "patch"}, {deployment, "shop", "patch"}}},
			refused: []string{
				"the controller may not create, patch a Deployment.apps in namespace shop; give its account a role that allows it",
				"the controller may not patch a PersistentVolumeClaim in namespace shop",
			},
		},
		"storage quota": {
			known:   quotas(quota("shop", "requests.storage", "8Gi", "10Gi")),
			refused: []string{"namespace shop needs 3 GiB more, and quota shop/limits has 2 GiB left of 10 GiB (requests.storage); raise the quota"},
		},
		"storage quota that just suffices": {known: quotas(quota("shop", "requests.storage", "7Gi", "10Gi"))},
		"quota of another namespace":       {known: quotas(quota("other", "requests.storage", "10Gi", "10Gi"))},
		"quota of something else":          {known: quotas(quota("shop", "pods", "10", "10"))},
		"used up twice over":               {known: quotas(quota("shop", "requests.storage", "20Gi", "10Gi")), refused: []string{"has 0 B left of 10 GiB"}},
		"number of claims": {
			known:   quotas(quota("shop", "persistentvolumeclaims", "3", "4", "count/persistentvolumeclaims", "2", "4")),
			refused: []string{"namespace shop needs 2 claims more, and quota shop/limits has 1 claim left of 4 claims (persistentvolumeclaims)"},
		},
		"quota of a class": {
			known:   quotas(quota("shop", "fast.storageclass.storage.k8s.io/requests.storage", "0", "1Gi", "slow.storageclass.storage.k8s.io/requests.storage", "0", "1Gi")),
			refused: []string{"needs 2 GiB more, and quota shop/limits has 1 GiB left of 1 GiB (fast.storageclass.storage.k8s.io/requests.storage)"},
		},
		"number of claims of a class": {
			known: quotas(quota("shop", "slow.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "1",
				"fast.storageclass.storage.k8s.io/persistentvolumeclaims", "0", "1")),
			refused: []string{"needs 1 claim more, and quota shop/limits has 0 claims left of 1 claim (slow."},
		},
		"quota where volumes are filled": {
			known:   quotas(quota("lockstep-system", "requests.storage", "0", "2Gi")),
			refused: []string{"namespace lockstep-system, where volumes are filled, needs 3 GiB more"},
		},
		"claims that exist are counted already": {
			known: plan.Preflight{
				Quotas:  []plan.Quota{quota("shop", "requests.storage", "9Gi", "10Gi")},
				Claimed: []plan.Room{{Claim: object.Name{Namespace: "shop", Name: "data"}, Class: "fast", Bytes: 2 * gi}},
			},
		},
		"a restore that has begun": {
			known: plan.Preflight{
				Begun: true, Quotas: []plan.Quota{quota("shop", "requests.storage", "10Gi", "10Gi")},
				Capacity: map[string]plan.Capacity{"fast": {Published: true}},
			},
		},
		"quota that the commit brings": {
			more: "---\n{apiVersion: v1, kind: ResourceQuota, metadata: {namespace: shop, name: new}, spec: {hard: {requests.storage: 5Gi}}}",
			known: plan.Preflight{Claimed: []plan.Room{
				{Claim: object.Name{Namespace: "shop", Name: "there"}, Bytes: 3 * gi}, {Claim: object.Name{Namespace: "other", Name: "there"}, Bytes: 9 * gi},
			}},
			refused: []string{"needs 3 GiB more, and quota shop/new has 2 GiB left of 5 GiB"},
		},
		"quota that the commit raises": {
			more:  "---\n{apiVersion: v1, kind: ResourceQuota, metadata: {namespace: shop, name: limits}, spec: {hard: {requests.storage: 13Gi}}}",
			known: quotas(quota("shop", "requests.storage", "10Gi", "10Gi")),
		},
		"no room in all": {
			known:   class("fast", plan.Capacity{Published: true, Total: 2 * gi, Largest: 3 * gi}),
			refused: []string{"class fast has no room for 3 GiB of volumes: its driver csi.example.org publishes 2 GiB"},
		},
		"no room for one": {
			known:   class("fast", plan.Capacity{Published: true, Total: 20 * gi, Largest: 2 * gi}),
			refused: []string{"class fast has room for no volume of 3 GiB: its driver csi.example.org publishes 2 GiB at most"},
		},
		"room that just suffices": {known: class("fast", plan.Capacity{Published: true, Total: 3 * gi, Largest: 3 * gi})},
		"claims that start empty need room, too": {
			known:   class("slow", plan.Capacity{Published: true, Total: gi / 2, Largest: gi}),
			refused: []string{"class slow has no room for 1 GiB"},
		},
		"driver that publishes nothing": {
			known: class("fast", plan.Capacity{}),
			notes: []string{"whether class fast has room for 3 GiB: its driver csi.example.org publishes no capacity for it"},
		},
		"class that is not used": {known: class("third", plan.Capacity{Published: true})},
		"image": {
			known: plan.Preflight{Images: []plan.ImageAnswer{
				{Image: "registry.example.org/front:1", Missing: true, Why: "no such tag"}, {Image: "registry.example.org/wait:1", Why: "no answer"},
				{Image: "registry.example.org/of-nobody", Missing: true},
			}},
			refused: []string{"image registry.example.org/front:1, which Deployment shop/front runs, is not in its registry (no such tag); push it again"},
			notes:   []string{"whether image registry.example.org/wait:1 can be had: no answer"},
		},
		"what could not be asked": {known: plan.Preflight{NotChecked: []string{"quotas: forbidden"}}, notes: []string{"quotas: forbidden"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := small(t, c.more)
			if err := p.Check(c.known); err != nil {
				t.Fatal(err)
			}
			contain(t, "refusals", p.Refusals, c.refused)
			contain(t, "notes", p.NotChecked, c.notes)
			text := p.Text()
			for _, said := range slices.Concat(p.Refusals, p.NotChecked) {
				if !strings.Contains(text, "  - "+said+"\n") {
					t.Errorf("the text does not say %q", said)
				}
			}
		})
	}
}

func contain(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("%s: got %q, want %q", what, got[i], want[i])
		}
	}
}

func TestAccesses(t *testing.T) {
	p := small(t, `
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: banners.example.org}
spec: {group: example.org, scope: Namespaced, names: {kind: Banner, plural: banners}}
---
{apiVersion: example.org/v1, kind: Banner, metadata: {namespace: shop, name: sale}}
`)
	got := map[string]bool{}
	all := p.Accesses([]object.Key{{Kind: "Secret", Namespace: "shop", Name: "login"}, {Kind: "Secret", Namespace: "shop", Name: "other"}})
	for _, a := range all {
		got[a.Verb+" "+a.Kind.Kind+" "+a.Namespace] = true
	}
	if len(got) != len(all) {
		t.Errorf("%d questions of which %d differ", len(all), len(got))
	}
	for _, want := range []string{
		"create Namespace ", "patch CustomResourceDefinition ", "patch Banner shop", "get Deployment shop", "create Secret shop",
		"create PersistentVolumeClaim shop", "delete PersistentVolumeClaim lockstep-system", "create Job lockstep-system", "patch PersistentVolume ",
	} {
		if !got[want] {
			t.Errorf("does not ask for %q", want)
		}
	}
	if got["delete PersistentVolumeClaim shop"] || got["patch Secret shop"] {
		t.Error("asks for what a restore never does")
	}
	if r := p.Resource(schema.GroupKind{Group: "example.org", Kind: "Banner"}); r != "banners" {
		t.Errorf("the commit's own kind is asked for as %q", r)
	}
}

// TestRooms: what is asked for includes the claims that a StatefulSet makes beside those with data.
func TestRooms(t *testing.T) {
	staged, own, empty := mustPlan(t, input(t)).Rooms()
	var total, names = map[string]int64{}, []string{}
	for _, r := range slices.Concat(staged, empty) {
		total[r.Class] += r.Bytes >> 30
	}
	for _, r := range empty {
		names = append(names, r.Claim.String())
	}
	if len(own) != 6 || total["fast"] != 6 || total["slow"] != 7 || !slices.Equal(names, []string{"shop/scratch", "shop/wal-db-1"}) {
		t.Errorf("%d claims, GiB by class %v, empty are %q", len(own), total, names)
	}
}

func TestImages(t *testing.T) {
	images, err := small(t, "").Images()
	if err != nil || len(images) != 2 {
		t.Fatalf("got %v, %v", images, err)
	}
	front := images[0]
	if front.Name != "registry.example.org/front:1" || !slices.Equal(front.PullSecrets, []object.Name{{Namespace: "shop", Name: "login"}}) ||
		!slices.Equal(front.Accounts, []object.Name{{Namespace: "shop", Name: "reader"}}) || len(front.Users) != 1 {
		t.Errorf("got %+v", front)
	}
}

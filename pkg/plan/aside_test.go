package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// TestSetAside replaces a claim that is bound, and refuses what cannot be stopped and started again.
func TestSetAside(t *testing.T) {
	data := object.Name{Namespace: "shop", Name: "data-db-0"}
	key := func(group, kind, name string) object.Key {
		return object.Key{Group: group, Kind: kind, Namespace: "shop", Name: name}
	}
	uses := func(k object.Key, by object.Key, replicas int32) plan.Consumer {
		return plan.Consumer{Key: k, By: by, Claims: []object.Name{data}, Replicas: replicas}
	}
	db, pod, none := key("apps", "StatefulSet", "db"), key("", "Pod", "db-0"), object.Key{}
	cron, job := key("batch", "CronJob", "audit"), key("batch", "Job", "report-1")
	other := plan.Consumer{Key: key("apps", "Deployment", "front"), Replicas: 2}
	tests := []struct {
		name      string
		consumers []plan.Consumer
		want      []plan.Stop
		refusal   string
	}{
		{"nobody mounts it", []plan.Consumer{other}, nil, ""},
		{"a StatefulSet and its pod", []plan.Consumer{uses(db, none, 2), uses(pod, db, 1)}, []plan.Stop{{Key: db, Replicas: 2}}, ""},
		{"a pod of a StatefulSet whose own claims it shares", []plan.Consumer{{Key: db, Replicas: 1}, uses(pod, db, 1)}, []plan.Stop{{Key: db, Replicas: 1}}, ""},
		{"a point has it at zero", []plan.Consumer{{Key: db, Claims: []object.Name{data}, ScaledBy: "nightly"}, uses(pod, db, 1)}, nil,
			"StatefulSet shop/db mounts claim shop/data-db-0 and is scaled to zero by restore point nightly, which will scale it back"},
		{"a StatefulSet that deletes its claims, all of which are kept", []plan.Consumer{
			{Key: db, Claims: []object.Name{data}, Replicas: 1, Deletes: []object.Name{data}},
		}, []plan.Stop{{Key: db, Replicas: 1}}, ""},
		{"a StatefulSet that deletes a claim of which the point holds nothing", []plan.Consumer{
			{Key: db, Claims: []object.Name{data}, Replicas: 2, Deletes: []object.Name{data, {Namespace: "shop", Name: "data-db-1"}}}, uses(pod, db, 1),
		}, nil, "StatefulSet shop/db deletes claim shop/data-db-1 when it is stopped, and the point holds no data of that claim"},
		{"a StatefulSet that deletes its claims, and is stopped already", []plan.Consumer{
			{Key: db, Claims: []object.Name{data}, Deletes: []object.Name{{Namespace: "shop", Name: "data-db-1"}}},
		}, nil, ""},
		{"it is stopped already", []plan.Consumer{uses(db, none, 0)}, nil, ""},
		{"a Deployment with its ReplicaSets", []plan.Consumer{
			uses(key("apps", "Deployment", "tool"), none, 3), uses(key("apps", "ReplicaSet", "web-1"), key("apps", "Deployment", "tool"), 3),
			uses(key("apps", "ReplicaSet", "web-0"), key("apps", "Deployment", "tool"), 0), uses(key("", "Pod", "web-1-a"), key("apps", "ReplicaSet", "web-1"), 1),
		}, []plan.Stop{{Key: key("apps", "Deployment", "tool"), Replicas: 3, Stays: true}}, ""},
		{"a CronJob whose Job runs", []plan.Consumer{uses(cron, none, 1), uses(job, cron, 1), uses(pod, job, 1)}, []plan.Stop{{Key: cron, Replicas: 1, Stays: true}}, ""},
		{"a suspended CronJob", []plan.Consumer{{Key: cron, Claims: []object.Name{data}, Suspended: true}}, nil, ""},
		{"a Job by itself", []plan.Consumer{uses(job, none, 1), uses(pod, job, 1)}, nil, "Job shop/report-1 mounts claim shop/data-db-0 and is not complete"},
		{"a pod by itself", []plan.Consumer{uses(pod, none, 1)}, nil, "Pod shop/db-0 mounts claim shop/data-db-0, and only Deployments"},
		{"a DaemonSet", []plan.Consumer{uses(key("apps", "DaemonSet", "agent"), none, 1)}, nil, "DaemonSet shop/agent mounts"},
		{"a ReplicaSet by itself", []plan.Consumer{uses(key("apps", "ReplicaSet", "web-1"), none, 1)}, nil, "ReplicaSet shop/web-1 mounts"},
		{"a pod of an operator", []plan.Consumer{uses(pod, key("postgresql.cnpg.io", "Cluster", "db"), 1)}, nil, "is made by Cluster.postgresql.cnpg.io shop/db"},
		{"a StatefulSet of an operator", []plan.Consumer{uses(db, key("example.com", "Database", "db"), 1)}, nil, "is made by Database.example.com shop/db"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t)
			in.SetAside = true
			in.Facts.Claims[data] = plan.ClaimFact{UID: "old", Phase: corev1.ClaimBound, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-9", StorageClassName: new("slow")}}
			in.Facts.Consumers = tt.consumers
			p := mustPlan(t, in)
			if diff := cmp.Diff(tt.want, p.Stops); diff != "" {
				t.Errorf("stops: %s", diff)
			}
			if text := strings.Join(p.Refusals, "; "); !strings.Contains(text, tt.refusal) || (text == "") != (tt.refusal == "") {
				t.Errorf("refused for %q, want %q", text, tt.refusal)
			}
			want := &plan.SetAside{Volume: "pvc-9", ClaimUID: "old"}
			if c := p.Claim(data); !cmp.Equal(c.SetAside, want) || c.StorageClass != "fast" {
				t.Errorf("claim %+v of class %s", c.SetAside, c.StorageClass)
			}
		})
	}
}

// TestSetAsideOnce keeps to what an earlier planning has decided, whatever there is now.
func TestSetAsideOnce(t *testing.T) {
	data, cache := object.Name{Namespace: "shop", Name: "data-db-0"}, object.Name{Namespace: "shop", Name: "cache"}
	in := input(t)
	in.SetAside = true
	in.Earlier = &plan.Aside{Claims: map[object.Name]plan.SetAside{data: {Volume: "pvc-9", ClaimUID: "old"}}}
	in.Facts.Claims[data] = plan.ClaimFact{UID: "new", Phase: corev1.ClaimBound, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-10"}, RestoreUID: "mine"}
	if p := mustPlan(t, in); len(p.Refusals) > 0 || p.Claim(data).SetAside == nil || p.Claim(data).SetAside.Volume != "pvc-9" {
		t.Errorf("after it was replaced: %v, %+v", p.Refusals, p.Claim(data).SetAside)
	}
	for _, fact := range []plan.ClaimFact{{UID: "third", Phase: corev1.ClaimBound, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-11"}}} {
		in.Facts.Claims[data], in.Facts.Claims[cache] = fact, fact
		p := mustPlan(t, in)
		for _, name := range []object.Name{data, cache} {
			if !slices.ContainsFunc(p.Refusals, func(r string) bool { return strings.Contains(r, "claim "+name.String()+" is bound to volume pvc-11") }) {
				t.Errorf("a claim that somebody made meanwhile is not refused: %v", p.Refusals)
			}
		}
	}
}

func TestSetAsideText(t *testing.T) {
	in := input(t)
	in.SetAside = true
	in.Facts.Claims[object.Name{Namespace: "shop", Name: "data-db-0"}] = plan.ClaimFact{UID: "old", Phase: corev1.ClaimBound, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-9"}}
	in.Facts.Consumers = []plan.Consumer{{
		Key:    object.Key{Group: "apps", Kind: "StatefulSet", Namespace: "shop", Name: "db"},
		Claims: []object.Name{{Namespace: "shop", Name: "data-db-0"}}, Replicas: 2, Autoscaler: "HorizontalPodAutoscaler shop/db",
	}}
	text := mustPlan(t, in).Text()
	for _, want := range []string{
		"StatefulSet shop/db is scaled from 2 replicas to none; HorizontalPodAutoscaler shop/db rests until then\n",
		"claim shop/data-db-0 is replaced; its volume pvc-9 is kept with its data\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the text does not say %q:\n%s", want, text)
		}
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// TestRetention has four points of which the rules keep one and a person another. That two go at once needs a word. Their records go when
// their grace time is over, their data with the vault's own prune, and what is left is whole and comes back.
func TestRetention(t *testing.T) {
	watchOver(t)
	r := &retained{t: t, name: "retained", vault: newVault(t.Context(), t, "retaining")}
	ctx := t.Context()
	repo, _ := newNotes(ctx, t, r.name)
	r.change(func(p *v1alpha1.ProtectionPolicy) { p.Spec.Vaults = []string{"retaining"} })

	held := r.take(ctx)
	lockstep(ctx, t, nil, "hold", held, "--reason", "audit", "--vault", r.vault.url, "--key-file", r.vault.key)
	// The least that makes a difference: the controller looks every second, and believes that a quarter of this has passed.
	const grace = 2 * time.Second
	r.change(func(p *v1alpha1.ProtectionPolicy) {
		p.Spec.Retention = &v1alpha1.Retention{
			Last: 4, Grace: &metav1.Duration{Duration: grace}, AtOnce: &v1alpha1.RetentionAtOnce{Percent: 1, Points: 1},
		}
	})
	second, third, last := r.take(ctx), r.take(ctx), r.take(ctx)
	digest := notesDigest(ctx, t, shared.prod, r.name)
	all := []string{held, second, third, last}
	r.await(func(s v1alpha1.VaultRetention) bool { return s.Kept == 4 })

	r.change(func(p *v1alpha1.ProtectionPolicy) { p.Spec.Retention.Last = 1 })
	refusal := r.await(func(s v1alpha1.VaultRetention) bool { return s.Refused != nil })
	if want := []string{second, third}; !slices.Equal(refusal.Refused.Points, want) {
		t.Errorf("refused are %v, want %v", refusal.Refused.Points, want)
	}
	r.await(func(s v1alpha1.VaultRetention) bool { return s.CheckedAt.Sub(refusal.CheckedAt.Time) > 3*grace })
	r.want(ctx, "while it is refused", all...)
	approve := []string{"retention", "approve", r.name + "/notes"}
	_, digestOf, said := strings.Cut(lockstep(ctx, t, shared.prod, approve...), "--points ")
	if !said {
		t.Fatal("nobody says how the removal is allowed")
	}
	lockstep(ctx, t, shared.prod, append(approve, "--points", strings.TrimSpace(digestOf))...)
	r.awaitPoints(ctx, held, last)

	before := r.size(ctx)
	r.prune(ctx, held, last)
	// The Job deletes no pack that is younger than a day. Whoever knows that nobody saves meanwhile need not wait.
	lockstep(ctx, t, nil, "volume", "prune", "--grace", "0s", "--no-other-saves", "--vault", r.vault.url, "--key-file", r.vault.key)
	freed := before - r.size(ctx)
	t.Logf("%d of %d bytes left the bucket", freed, before)
	if freed < 2*ownBytes {
		t.Errorf("%d bytes left the bucket, want at least the %d that two points had for themselves", freed, 2*ownBytes)
	}
	lockstep(ctx, t, nil, "volume", "verify", "--level", "data", "--vault", r.vault.url, "--key-file", r.vault.key)

	lockstep(ctx, t, nil, "release-hold", held, "--vault", r.vault.url, "--key-file", r.vault.key)
	const back = "retained-back"
	lockstep(ctx, t, shared.prod, "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", "retaining", "--map-namespace", r.name+"="+back)
	if got := notesDigest(ctx, t, shared.prod, back); got != digest {
		t.Errorf("the last point gives back %s, want %s", got, digest)
	}
	r.awaitPoints(ctx, last) // the controller may have listed the holds a minute ago
	lockstep(ctx, t, nil, "volume", "verify", "--level", "data", "--vault", r.vault.url, "--key-file", r.vault.key)
	nothingLeft(ctx, t, shared.prod, r.name)
	forget(ctx, t, shared.prod, back)
	forget(ctx, t, shared.prod, r.name)
}

// ownBytes are what each point has that no other one has.
const ownBytes = 8 << 20

// retained is an application whose points are kept by rules, in a vault of its own.
type retained struct {
	t     *testing.T
	name  string
	vault ownVault
	taken []v1alpha1.RestorePoint
}

// change changes the policy.
func (r *retained) change(edit func(*v1alpha1.ProtectionPolicy)) {
	r.t.Helper()
	p := r.policy(r.t.Context())
	before := p.DeepCopy()
	edit(p)
	must(r.t, shared.prod.Patch(r.t.Context(), p, client.MergeFrom(before)))
}

func (r *retained) policy(ctx context.Context) *v1alpha1.ProtectionPolicy {
	r.t.Helper()
	p := &v1alpha1.ProtectionPolicy{}
	must(r.t, shared.prod.Get(ctx, client.ObjectKey{Namespace: r.name, Name: "notes"}, p))
	return p
}

// await waits until the retention stands so, as judged by the policy as it is.
func (r *retained) await(stands func(v1alpha1.VaultRetention) bool) v1alpha1.VaultRetention {
	r.t.Helper()
	var s v1alpha1.VaultRetention
	err := lab.Eventually(r.t.Context(), patience, func(ctx context.Context) (bool, error) {
		p := r.policy(ctx)
		if len(p.Status.Retention) != 1 {
			return false, nil
		}
		s = p.Status.Retention[0]
		return s.Generation == p.Generation && s.Unknown == "" && stands(s), nil
	})
	if err != nil {
		r.t.Fatalf("the retention stands at %+v: %v", s, err)
	}
	return s
}

// take writes what only this point has, and takes it.
func (r *retained) take(ctx context.Context) (id string) {
	r.t.Helper()
	write(ctx, r.t, shared.prod, r.name, "notes-0",
		fmt.Sprintf("busybox dd if=/dev/urandom of=a/own bs=1M count=%d 2>/dev/null; busybox sync", ownBytes>>20))
	lockstep(ctx, r.t, shared.prod, "backup", "notes", "-n", r.name)
	for _, p := range r.objects(ctx) {
		if !slices.ContainsFunc(r.taken, func(old v1alpha1.RestorePoint) bool { return old.UID == p.UID }) {
			r.taken = append(r.taken, p)
			return p.Status.ID
		}
	}
	r.t.Fatal("no point was taken")
	return ""
}

func (r *retained) objects(ctx context.Context) []v1alpha1.RestorePoint {
	r.t.Helper()
	var list v1alpha1.RestorePointList
	must(r.t, shared.prod.List(ctx, &list, client.InNamespace(r.name)))
	return list.Items
}

// points are those that the vault has and those that the cluster has, the oldest first.
func (r *retained) points(ctx context.Context) (vault, cluster []string) {
	r.t.Helper()
	var listed []struct {
		ID string `json:"id"`
	}
	out := lockstep(ctx, r.t, nil, "points", "-o", "json", "--vault", r.vault.url, "--key-file", r.vault.key)
	must(r.t, json.Unmarshal([]byte(out), &listed))
	for _, p := range listed {
		vault = append(vault, p.ID)
	}
	for _, p := range r.objects(ctx) {
		cluster = append(cluster, p.Status.ID)
	}
	slices.Sort(vault)
	slices.Sort(cluster)
	return vault, cluster
}

// want checks that exactly these points are there.
func (r *retained) want(ctx context.Context, when string, ids ...string) {
	r.t.Helper()
	if vault, cluster := r.points(ctx); !slices.Equal(vault, ids) || !slices.Equal(cluster, ids) {
		r.t.Errorf("%s the vault has %v and the cluster %v, want %v", when, vault, cluster, ids)
	}
}

// awaitPoints waits until no other points are there, and checks that these are.
func (r *retained) awaitPoints(ctx context.Context, ids ...string) {
	r.t.Helper()
	must(r.t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		return len(r.objects(ctx)) <= len(ids), nil
	}))
	r.want(ctx, "after points went", ids...)
}

// prune lets the vault's prune come due, until only the data of these points is needed.
func (r *retained) prune(ctx context.Context, ids ...string) {
	r.t.Helper()
	var want []string
	for _, p := range r.taken {
		if slices.Contains(ids, p.Status.ID) {
			for _, v := range p.Status.Volumes {
				want = append(want, v.Snapshot)
			}
		}
	}
	slices.Sort(want)
	vault := &v1alpha1.Vault{}
	must(r.t, shared.prod.Get(ctx, client.ObjectKey{Name: "retaining"}, vault))
	set := func(edit func(*v1alpha1.VaultSpec)) {
		before := vault.DeepCopy()
		edit(&vault.Spec)
		must(r.t, shared.prod.Patch(ctx, vault, client.MergeFrom(before)))
	}
	set(func(s *v1alpha1.VaultSpec) { s.PruneSchedule = "* * * * *" })
	var left []string
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		if err := shared.prod.Get(ctx, client.ObjectKeyFromObject(vault), vault); err != nil {
			return false, err
		}
		if s := vault.Status.Prune; s == nil || s.PrunedAt == nil || s.Running != "" {
			return false, nil
		}
		var listed []struct {
			ID string `json:"id"`
		}
		left = nil
		out := lockstep(ctx, r.t, nil, "volume", "list", "-o", "json", "--vault", r.vault.url, "--key-file", r.vault.key)
		must(r.t, json.Unmarshal([]byte(out), &listed))
		for _, s := range listed {
			left = append(left, s.ID)
		}
		slices.Sort(left)
		return len(left) <= len(want), nil
	})
	if err != nil || !slices.Equal(left, want) {
		r.t.Fatalf("after the prune the vault has the volumes %v, want %v: %v, %+v", left, want, err, vault.Status.Prune)
	}
	set(func(s *v1alpha1.VaultSpec) { s.SuspendPrune = true })
}

// size is that of all objects of the vault, in bytes.
func (r *retained) size(ctx context.Context) (bytes int64) {
	r.t.Helper()
	s, err := backend.Open(ctx, r.vault.url, backend.Credentials{AccessKeyID: shared.lab.S3.AccessKey, SecretAccessKey: shared.lab.S3.SecretKey})
	must(r.t, err)
	for info, err := range s.List(ctx, "") {
		must(r.t, err)
		bytes += info.Size
	}
	return bytes
}

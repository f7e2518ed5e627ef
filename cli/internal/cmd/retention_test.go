// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

func TestRetentionPreviewNeedsNoCluster(t *testing.T) {
	d := newDisaster(t)
	f := vault.Flags{Vault: d.vault, KeyFile: d.key}
	v, err := f.OpenURL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // newer ones, of another commit
		r := d.record
		r.Taken = r.Taken.Add(time.Duration(i+1) * time.Hour)
		r.ID, r.Revision.Commit = fmt.Sprintf("20260102-0%d0405-aaaaaaaa", 4+i), "0123456789012345678901234567890123456789"
		if err := catalog.Put(t.Context(), v.Vault, r); err != nil {
			t.Fatal(err)
		}
	}
	c := &testCluster{kubeconfig: "/does/not/exist"}
	o := c.run(t, d.flags("retention", "preview", "shop/shop", "--last", "2", "--tags", "v1*", "--repo", d.repository, "-o", "json")...)
	o.want(t, fault.Done)
	var got preview
	if err := json.Unmarshal([]byte(o.out), &got); err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, p := range got.Points {
		reasons = append(reasons, fmt.Sprint(p.Keep, p.Reasons))
	}
	want := []string{"true [last good last 1 of 2]", "true [last 2 of 2]", "false [no rule keeps it]", "true [tag v1.0.0]"}
	if diff := cmp.Diff(want, reasons); diff != "" || got.Kept != 3 || got.WouldGo != 1 {
		t.Errorf("kept %d, %d would go\n%s", got.Kept, got.WouldGo, diff)
	}

	// Tags that are not known keep everything.
	c.run(t, d.flags("retention", "preview", "shop/shop", "--last", "1", "--tags", "v1*", "--repo", "/nowhere")...).
		want(t, fault.Done, "the tags are not known", "Of 4 points 4 would be kept and 0 would go.")
	c.run(t, d.flags("retention", "preview", "shop/shop", "--last", "1")...).want(t, fault.Done, "GO", "Of 4 points 1 would be kept and 3 would go.")
	c.run(t, d.flags("retention", "preview", "shop/shop", "--tags", "v[", "--repo", d.repository)...).want(t, fault.Usage, `"v["`)
	c.run(t, d.flags("retention", "preview", "shop", "--last", "1")...).want(t, fault.Usage, "NAMESPACE/POLICY")
}

func TestHolds(t *testing.T) {
	d := newDisaster(t)
	c := &testCluster{kubeconfig: "/does/not/exist"}
	const id = "20260102-030405-aaaaaaaa"
	c.run(t, d.flags("hold", "20260102", "--reason", "audit", "--until", "2000-01-01")...).want(t, fault.Usage, "--until")
	c.run(t, d.flags("hold", "2025")...).want(t, fault.Absent)
	c.run(t, d.flags("hold", "20260102", "--reason", "audit", "--until", "2999-01-31")...).want(t, fault.Done, id+" is held: audit (until 2999-02-01T00:00:00Z)")
	c.run(t, d.flags("points")...).want(t, fault.Done, "HELD", "audit (until")
	c.run(t, d.flags("points", "-o", "json")...).want(t, fault.Done, `"reason": "audit"`)
	c.run(t, d.flags("retention", "preview", "shop/shop", "--last", "1")...).want(t, fault.Done, `hold "audit`)
	c.run(t, d.flags("release-hold", id)...).want(t, fault.Done, "not held any more")
	c.run(t, d.flags("release-hold", id)...).want(t, fault.Done, "was not held")
	if o := c.run(t, d.flags("points")...); strings.Contains(o.out, "HELD") {
		t.Errorf("still held:\n%s", o.out)
	}
}

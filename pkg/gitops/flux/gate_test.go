package flux

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

const later = "main@sha1:89abcdef0123456789abcdef0123456789abcdef"

// TestGate reads where a gated Kustomization stands.
func TestGate(t *testing.T) {
	now := "main@sha1:" + commit
	for name, c := range map[string]struct {
		annotations map[string]any
		status      map[string]any
		artifact    string
		want        Gate
		closed      bool
	}{
		"nothing comes":     {artifact: now, want: Gate{Incoming: now, Commit: commit}},
		"something comes":   {artifact: later, want: Gate{Incoming: later, Commit: later[10:]}, closed: true},
		"it is approved":    {artifact: later, annotations: map[string]any{v1alpha1.AnnotationApprovedRevision: later}, want: Gate{Incoming: later, Commit: later[10:], Approved: later}},
		"no source yet":     {},
		"no commit":         {artifact: "latest@sha256:00", want: Gate{Incoming: "latest@sha256:00", Unnamed: `GitRepository flux-system/source names no commit: not a revision: "latest@sha256:00" is not <name>@sha1:<40 digits> or sha1:<40 digits>`}, closed: true},
		"applied, not well": {artifact: now, status: map[string]any{"lastAttemptedRevision": later}, want: Gate{Incoming: now, Commit: commit, Attempted: later, Mixed: true}, closed: true},
		"with limits": {artifact: now, annotations: map[string]any{v1alpha1.AnnotationPreDeployTimeout: "5m", v1alpha1.AnnotationOnBackupFailure: "Allow"},
			want: Gate{Incoming: now, Commit: commit, Timeout: 5 * time.Minute, Allow: true}},
		"the digest of what runs": {artifact: now, status: map[string]any{"history": []any{map[string]any{"digest": "sha256:1", "metadata": map[string]any{"revision": now}}}},
			want: Gate{Incoming: now, Commit: commit, Digest: "sha256:1"}},
		"the digest of another": {artifact: now, status: map[string]any{"history": []any{map[string]any{"digest": "sha256:1", "metadata": map[string]any{"revision": later}}}},
			want: Gate{Incoming: now, Commit: commit}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, f := newFlux(t, source, kustomization("shop", "./deploy", "", ""))
			notes := map[string]any{v1alpha1.AnnotationPreDeploy: "required"}
			for k, v := range c.annotations {
				notes[k] = v
			}
			status := map[string]any{"lastAppliedRevision": now, "lastAttemptedRevision": now}
			for k, v := range c.status {
				status[k] = v
			}
			cluster.Set(keyOf("shop"), notes, "metadata", "annotations")
			cluster.Set(keyOf("shop"), status, "status")
			if c.artifact != "" {
				cluster.Set(keyOf("source"), c.artifact, "status", "artifact", "revision")
			}
			got, err := f.Gates(t.Context())
			must(t, err)
			c.want.Name, c.want.Required, c.want.Applied = object.Name{Namespace: "flux-system", Name: "shop"}, true, now
			if c.want.Attempted == "" {
				c.want.Attempted = now
			}
			if c.want.Timeout == 0 {
				c.want.Timeout = time.Hour
			}
			if diff := cmp.Diff([]Gate{c.want}, got); diff != "" {
				t.Error(diff)
			}
			if got[0].Closed() != c.closed {
				t.Errorf("closed is %t", got[0].Closed())
			}
		})
	}
}

// TestRunning: what is tagged is the revision whose data the application has.
func TestRunning(t *testing.T) {
	for reason, c := range map[string]struct {
		commit string
		mixed  bool
	}{
		"BuildFailed": {commit, false}, "HealthCheckFailed": {later[10:], false}, "ReconciliationFailed": {commit, true}, "Progressing": {commit, true},
	} {
		t.Run(reason, func(t *testing.T) {
			cluster, f := newFlux(t, source, kustomization("shop", "./deploy", "", ""))
			cluster.Set(keyOf("shop"), map[string]any{
				"lastAppliedRevision": "main@sha1:" + commit, "lastAttemptedRevision": later,
				"conditions": []any{map[string]any{"type": "Ready", "status": "False", "reason": reason}},
			}, "status")
			policy := cluster.Parse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p, labels: {" + by("shop") + "}}")
			got, err := f.Running(t.Context(), policy)
			must(t, err)
			if got.Revision.Commit != c.commit || got.Mixed != c.mixed || got.Revision.Path != "deploy" {
				t.Errorf("%+v", got)
			}
		})
	}
}

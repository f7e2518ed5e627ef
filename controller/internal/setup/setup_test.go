package setup_test

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/setup"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	u.SetAPIVersion("lockstep.dev/v1alpha1")
	if u.GetKind() != "Vault" {
		u.SetNamespace("lockstep-system")
	}
	return u
}

const (
	vault   = `{kind: Vault, metadata: {name: v}, spec: {s3: {bucket: acme-dr}, keySecretRef: {name: key}}}`
	pol     = `{kind: ProtectionPolicy, metadata: {name: p}, spec: {vaults: [v]}}`
	rpoint  = `{kind: RestorePoint, metadata: {name: r}, spec: {policyRef: {name: p}}}`
	restore = `{kind: Restore, metadata: {name: x}, spec: {from: {vault: v, tag: v1}, source: {url: "https://git.example/a.git"}}}`
)

// TestRefusals holds what the API server says to a person who asks for the impossible.
func TestRefusals(t *testing.T) {
	scheme, err := setup.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	_, c := testenv.Start(t, scheme)
	for _, good := range []string{vault, pol, rpoint, restore} {
		if err := c.Create(t.Context(), parse(t, good)); err != nil {
			t.Fatalf("%s: %v", good, err)
		}
	}
	for _, tt := range []struct{ name, manifest, message string }{
		{"immutable filesystem", `{kind: Vault, metadata: {name: a}, spec: {filesystem: {path: /v}, keySecretRef: {name: key},
			immutability: {mode: Compliance, retention: 720h}}}`, "a filesystem cannot lock files: immutability needs s3"},
		{"immutable for a moment", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme}, keySecretRef: {name: key},
			immutability: {mode: Governance, retention: 10m}}}`, "retention is from 1h to 876000h (100 years)"},
		{"immutable in days", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme}, keySecretRef: {name: key},
			immutability: {mode: Governance, retention: 30d}}}`, "retention"},
		{"immutable by request", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme}, keySecretRef: {name: key},
			immutability: {mode: Maybe, retention: 24h}}}`, "Unsupported value"},
		{"vault nowhere", `{kind: Vault, metadata: {name: a}, spec: {keySecretRef: {name: key}}}`, "a vault is in exactly one place"},
		{"vault in two places", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme}, filesystem: {path: /v}, keySecretRef: {name: key}}}`,
			"a vault is in exactly one place"},
		{"vault without a key", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme}}}`, "spec.keySecretRef: Required value"},
		{"vault with a nameless key", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme}, keySecretRef: {name: ""}}}`, "spec.keySecretRef.name"},
		{"prefix with a slash", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme, prefix: /p}, keySecretRef: {name: key}}}`,
			"a prefix neither starts nor ends with a slash"},
		{"endpoint that is no URL", `{kind: Vault, metadata: {name: a}, spec: {s3: {bucket: acme, endpoint: s3.example}, keySecretRef: {name: key}}}`,
			"an endpoint is a URL that starts with https:// or http://"},
		{"relative path", `{kind: Vault, metadata: {name: a}, spec: {filesystem: {path: v}, keySecretRef: {name: key}}}`, "a path is absolute"},
		{"keeps nothing", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], retention: {}}}`, "this retention keeps nothing"},
		{"keeps nothing, in numbers", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], retention: {last: 0, daily: 0, tags: []}}}`,
			"this retention keeps nothing"},
		{"keeps less than nothing", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], retention: {last: -1, daily: 2}}}`, "spec.retention.last"},
		{"a hook for every pod", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{selector: {}, pre: [a], post: [b]}]}}`,
			"this selector would choose every pod"},
		{"a hook for whom", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{pre: [a], post: [b]}]}}`, "spec.quiesce[0].selector: Required value"},
		{"a hook that holds nothing", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{selector: {matchLabels: {a: b}}, pre: [], post: [b]}]}}`,
			"spec.quiesce[0].pre"},
		{"a hook that lets nothing go", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{selector: {matchLabels: {a: b}}, pre: [a]}]}}`,
			"spec.quiesce[0].post: Required value"},
		{"a hook for long", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{selector: {matchLabels: {a: b}}, pre: [a], post: [b], timeout: 6m}]}}`,
			"at least 1s and at most 5m"},
		{"a hook for no time", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{selector: {matchLabels: {a: b}}, pre: [a], post: [b], timeout: 10ms}]}}`,
			"at least 1s and at most 5m"},
		{"a hook without a pod", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], quiesce: [{selector: {matchLabels: {a: b}}, pre: [a], post: [b], whenNoPod: Guess}]}}`,
			"Unsupported value"},
		{"away for long", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], scaleToZero: {timeout: 1h}}}`, "at least 10s and at most 10m"},
		{"away for no time", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: [v], scaleToZero: {timeout: 1s}}}`, "at least 10s and at most 10m"},
		{"no vault", `{kind: ProtectionPolicy, metadata: {name: a}, spec: {vaults: []}}`, "spec.vaults"},
		{"point of no policy", `{kind: RestorePoint, metadata: {name: a}, spec: {}}`, "spec.policyRef: Required value"},
		{"unknown trigger", `{kind: RestorePoint, metadata: {name: a}, spec: {policyRef: {name: p}, trigger: Whim}}`, "Unsupported value"},
		{"before no commit", `{kind: RestorePoint, metadata: {name: a}, spec: {policyRef: {name: p}, before: main}}`, "spec.before"},
		{"restore from nothing", `{kind: Restore, metadata: {name: a}, spec: {from: {vault: v}, source: {url: "https://h/a"}}}`, "exactly one way"},
		{"restore in two ways", `{kind: Restore, metadata: {name: a}, spec: {from: {vault: v, tag: v1, commit: abcdef1}, source: {url: "https://h/a"}}}`, "exactly one way"},
		{"restore from no vault", `{kind: Restore, metadata: {name: a}, spec: {from: {tag: v1}, source: {url: "https://h/a"}}}`, "spec.from.vault"},
		{"no URL", `{kind: Restore, metadata: {name: a}, spec: {from: {vault: v, tag: v1}, source: {url: "git@h:a"}}}`, "a repository URL starts with"},
		{"out of the repository", `{kind: Restore, metadata: {name: a}, spec: {from: {vault: v, tag: v1}, source: {url: "https://h/a", path: a/../../b}}}`,
			"stays inside the repository"},
		{"maps nothing", `{kind: Restore, metadata: {name: a}, spec: {map: {}, from: {vault: v, tag: v1}, source: {url: "https://h/a"}}}`, "map namespaces or storageClasses"},
		{"maps onto no name", `{kind: Restore, metadata: {name: a}, spec: {map: {namespaces: {shop: Shop!}}, from: {vault: v, tag: v1}, source: {url: "https://h/a"}}}`,
			"spec.map.namespaces.shop"},
		{"unknown engine", `{kind: Restore, metadata: {name: a}, spec: {engine: Magic, from: {vault: v, tag: v1}, source: {url: "https://h/a"}}}`, "Unsupported value"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, c.Create(t.Context(), parse(t, tt.manifest)), tt.message) })
	}
	for _, tt := range []struct{ name, manifest, message string }{
		{"a point changed", `{kind: RestorePoint, metadata: {name: r}, spec: {policyRef: {name: other}}}`, "a restore point is asked for once"},
		{"a restore changed", `{kind: Restore, metadata: {name: x}, spec: {from: {vault: v, tag: v2}, source: {url: "https://git.example/a.git"}}}`, "a restore is one replay"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := parse(t, tt.manifest)
			u := want.DeepCopy()
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(u), u); err != nil {
				t.Fatal(err)
			}
			u.Object["spec"] = want.Object["spec"]
			refused(t, c.Update(t.Context(), u), tt.message)
		})
	}
}

func refused(t *testing.T, err error, message string) {
	t.Helper()
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), message) {
		t.Errorf("got %v, want it refused with %q", err, message)
	}
}

// TestManager starts everything that a controller runs, on an API server that knows no snapshots: there, restores must work.
func TestManager(t *testing.T) {
	scheme, err := setup.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	cfg, c := testenv.Start(t, scheme)
	for _, name := range []string{"volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"} {
		crd := &unstructured.Unstructured{}
		crd.SetAPIVersion("apiextensions.k8s.io/v1")
		crd.SetKind("CustomResourceDefinition")
		crd.SetName(name + ".snapshot.storage.k8s.io")
		if err := c.Delete(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
	}
	mgr, err := setup.NewManager(cfg, setup.Options{Image: "image", Movers: movers.Limits{Max: 2, PerNode: 2}, MetricsAddr: "0", HealthAddr: "0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	for _, o := range []string{vault, pol, rpoint, restore} {
		if err := c.Create(t.Context(), parse(t, o)); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []string{vault, pol, rpoint, restore} {
		answered(t, c, parse(t, o), ended)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the manager ended: %v", err)
	}
}

// answered waits until a reconciler has said something about the object.
func answered(t *testing.T, c client.Client, u *unstructured.Unstructured, ended <-chan error) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(u), u); err != nil {
			t.Fatal(err)
		}
		if found, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions"); len(found) > 0 {
			return
		}
		select {
		case <-ticker.C:
		case err := <-ended:
			t.Fatalf("the manager ended: %v", err)
		case <-deadline:
			t.Fatalf("nothing was said about %s %s", u.GetKind(), u.GetName())
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, o := range []setup.Options{{Movers: movers.Limits{Max: 1, PerNode: 1}}, {Image: "image"}, {Image: "image", Movers: movers.Limits{Max: 1}}} {
		if _, err := setup.NewManager(nil, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

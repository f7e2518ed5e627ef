package point_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

func whole() point.Record {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	class := "fast"
	return point.Record{
		Version: point.Version, ID: "20260304-050607-0a1b2c3d", Application: "shop/shop", Trigger: v1alpha1.TriggerSchedule,
		Revision: v1alpha1.Revision{Repository: "https://git.example.com/shop.git", Ref: "v1.0.0", Commit: "c0ffee", Path: "deploy", Tree: "7ee"},
		Taken:    at, Completed: at.Add(time.Minute),
		Volumes: []point.Volume{{
			Namespace: "shop", Claim: "data-database-0", Labels: map[string]string{"app": "database"}, Capacity: 1 << 30, Taken: at, Consistency: v1alpha1.ConsistencyApplication,
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
			Snapshot: "5", Bytes: 9, Files: 2, ContentRoot: "c", MetaRoot: "m",
		}},
		Residual: &point.Residual{Document: "20260304-050607-0a1b2c3d", Secrets: 1},
	}
}

func TestEveryFieldComesBack(t *testing.T) {
	data, err := point.Encode(whole())
	if err != nil {
		t.Fatal(err)
	}
	got, err := point.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole(), got); diff != "" {
		t.Error(diff)
	}
	again, err := point.Encode(got)
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("encoding it again gives other bytes (%v):\n%s\n%s", err, data, again)
	}
}

// TestHashesAreNoQuantities has an ID and hashes that look like numbers with a large exponent, as one UID in a hundred does.
func TestHashesAreNoQuantities(t *testing.T) {
	r := whole()
	r.ID = point.NewID(r.Taken, "1234e567-0000-0000-0000-000000000000")
	r.Residual.Document = r.ID
	r.Revision.Commit, r.Revision.Tree = "00000000000000000000000000000000000e1234", "12e00000000000000000000000000000000e1234"
	r.Volumes[0].Snapshot, r.Volumes[0].ContentRoot, r.Volumes[0].MetaRoot = "1e123", "2e123", "3e123"
	r.Volumes[0].Labels = map[string]string{"build": "1e999"}
	data, err := point.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := point.Decode(data); err != nil || got.ID != r.ID {
		t.Errorf("got %q, %v", got.ID, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := point.Encode(whole())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, data, says string }{
		{"nothing", "", "unexpected end"},
		{"not JSON", "point", "invalid character"},
		{"a newer version", strings.Replace(string(good), `"version":1`, `"version":2`, 1), "version 2, this program reads version 1"},
		{"no version", strings.Replace(string(good), `"version":1`, `"version":0`, 1), "version 0"},
		{"an unknown field", strings.Replace(string(good), `{`, `{"colour":"red",`, 1), "colour"},
		{"data after it", string(good) + "{}", "after top-level value"},
		{"no commit", strings.Replace(string(good), "c0ffee", "", 1), "revision.commit is empty"},
		{"no roots", strings.Replace(string(good), `"contentRoot":"c"`, `"contentRoot":""`, 1), `"shop/data-database-0" is incomplete`},
		{"an endless quantity", strings.Replace(string(good), `"1Gi"`, `"1e-99999999"`, 1), "out of range"},
		{"an endless limit that another follows", strings.Replace(string(good), `"resources":{`, `"resources":{"limits":{"a":"1E+999","a":"1"},`, 1), "out of range"},
		{"an endless number", strings.Replace(string(good), `"1Gi"`, `1e-99999999`, 1), "out of range"},
		{"an endless quantity in the first of two specs", strings.Replace(string(good), `"spec":{`, `"Spec":{"resources":{"requests":{"storage":"1e-99999999"}}},"spec":{`, 1), "out of range"},
		{"cut", string(good[:len(good)/2]), "unexpected end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := point.Decode([]byte(tt.data))
			if !errors.Is(err, point.ErrInvalid) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want a refusal about %q", err, tt.says)
			}
		})
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	tests := map[string]func(*point.Record){
		"no id":                func(r *point.Record) { r.ID = "" },
		"no time":              func(r *point.Record) { r.Taken = time.Time{} },
		"one claim twice":      func(r *point.Record) { r.Volumes = append(r.Volumes, r.Volumes[0]) },
		"a volume not saved":   func(r *point.Record) { r.Volumes[0].Snapshot = "" },
		"of an unknown format": func(r *point.Record) { r.Version = 7 },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			r := whole()
			spoil(&r)
			if data, err := point.Encode(r); !errors.Is(err, point.ErrInvalid) {
				t.Errorf("got %s, %v", data, err)
			}
		})
	}
}

func TestNewIDSortsByTime(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600))
	if got, want := point.NewID(at, "0A1B2C3D-4e5f-6789-abcd-ef0123456789"), "20260304-040607-0a1b2c3d"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if point.NewID(at, "ffffffff") >= point.NewID(at.Add(time.Second), "00000000") {
		t.Error("a later point sorts before an earlier one")
	}
}

// IDs and commits are digits with letters among them, and may look like anything.
func TestEveryIDIsRead(t *testing.T) {
	for _, uid := range []string{"e8531711", "0e531711", "1234e567", "00000000", "ffffffff"} {
		r := whole()
		r.ID = point.NewID(r.Taken, uid)
		r.Revision.Commit = strings.Repeat("1", 20) + "e" + strings.Repeat("9", 19)
		data, err := point.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := point.Decode(data); err != nil || got.ID != r.ID || got.Revision.Commit != r.Revision.Commit {
			t.Errorf("%q is read as %q, %v", r.ID, got.ID, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := point.Encode(whole())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := point.Decode(data)
		if err != nil {
			return
		}
		// What was accepted can be written, and is then read as the same.
		out, err := point.Encode(r)
		if err != nil {
			t.Fatalf("accepted, but cannot be written: %v", err)
		}
		again, err := point.Decode(out)
		if err != nil {
			t.Fatalf("written, but not read: %v", err)
		}
		if second, err := point.Encode(again); err != nil || !bytes.Equal(out, second) {
			t.Fatalf("not the same after a round: %v\n%s\n%s", err, out, second)
		}
	})
}

func TestConsistency(t *testing.T) {
	const application, crash, fuzzy = v1alpha1.ConsistencyApplication, v1alpha1.ConsistencyCrash, v1alpha1.ConsistencyFuzzy
	for _, tt := range []struct {
		of   []v1alpha1.Consistency
		want v1alpha1.Consistency
	}{
		{nil, crash}, {[]v1alpha1.Consistency{""}, crash}, {[]v1alpha1.Consistency{application}, application},
		{[]v1alpha1.Consistency{application, ""}, crash}, {[]v1alpha1.Consistency{application, crash, fuzzy}, fuzzy}, {[]v1alpha1.Consistency{"", fuzzy}, fuzzy},
	} {
		if got := point.Least(tt.of...); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.of, got, tt.want)
		}
		var r point.Record
		for _, c := range tt.of {
			r.Volumes = append(r.Volumes, point.Volume{Consistency: c})
		}
		if got := r.Consistency(); got != tt.want {
			t.Errorf("record of %q: got %s, want %s", tt.of, got, tt.want)
		}
	}
}

package lab

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
)

func TestIdentitiesNameWhatIsDone(t *testing.T) {
	protobuf, ok := runtime.SerializerInfoForMediaType(clientgoscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		t.Fatal("no protobuf")
	}
	claim, err := runtime.Encode(clientgoscheme.Codecs.EncoderForVersion(protobuf.Serializer, corev1.SchemeGroupVersion),
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "lockstep-system", Name: "ls-0123456789ab-1"}})
	if err != nil {
		t.Fatal(err)
	}
	const merge = "application/merge-patch+json"
	for _, tt := range []struct {
		name string
		w    Write
		want []string
	}{
		{"a protobuf body", Write{Method: "POST", Path: "/api/v1/namespaces/lockstep-system/persistentvolumeclaims", Body: claim},
			[]string{"POST persistentvolumeclaims lockstep-system/ls-*-*"}},
		{"a JSON body", Write{Method: "POST", Path: "/apis/batch/v1/namespaces/lockstep-system/jobs", Body: []byte(`{"metadata":{"namespace":"lockstep-system","name":"ls-0123456789ab-0-load-0"}}`)},
			[]string{"POST jobs.batch lockstep-system/ls-*-*-load-*"}},
		{"a deletion", Write{Method: "DELETE", Path: "/apis/batch/v1/namespaces/lockstep-system/jobs/ls-0123456789ab-0-load-0"},
			[]string{"DELETE jobs.batch lockstep-system/ls-*-*-load-*"}},
		{"paths, not values; a removal is another change", Write{Method: "PATCH", Path: "/api/v1/persistentvolumes/pvc-0c7c0b1e-1111-2222-3333-444455556666", ContentType: merge,
			Body: []byte(`{"metadata":{"annotations":{"a":null,"b":"1"},"resourceVersion":"7"},"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)},
			[]string{"PATCH persistentvolumes pvc-*: -metadata.annotations.a, metadata.annotations.b, spec.persistentVolumeReclaimPolicy"}},
		{"an applied object", Write{Method: "PATCH", Path: "/apis/apps/v1/namespaces/shop/deployments/front", ContentType: "application/apply-patch+yaml", Manager: "lockstep"},
			[]string{"APPLY deployments.apps shop/front as lockstep"}},
		{"a status, field by field, whoever's it is", Write{Method: "PATCH", Path: "/apis/lockstep.dev/v1alpha1/namespaces/lockstep-system/restores/x-7/status", ContentType: merge,
			Body: []byte(`{"status":{"volumes":[{"claim":"a","message":"m"},{"claim":"b","bytes":1}],"conditions":[{"type":"Ready","status":"True"}],"point":{"id":"7"}}}`)},
			[]string{
				"PATCH restores.lockstep.dev/status x-*: status.conditions[] Ready",
				"PATCH restores.lockstep.dev/status x-*: status.point.id",
				"PATCH restores.lockstep.dev/status x-*: status.volumes[].bytes",
				"PATCH restores.lockstep.dev/status x-*: status.volumes[].claim",
			}},
	} {
		if diff := cmp.Diff(tt.want, tt.w.Identities()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestOnlyWritesAreWrites(t *testing.T) {
	for _, tt := range []struct {
		method, url   string
		write, counts bool
	}{
		{http.MethodGet, "/api/v1/pods", false, true},
		{http.MethodPatch, "/api/v1/namespaces/a/configmaps/b?dryRun=All", false, true},
		{http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", false, true},
		{http.MethodPost, "/api/v1/namespaces/a/events", true, false},
		{http.MethodPut, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", true, false},
		{http.MethodPatch, "/apis/lockstep.dev/v1alpha1/vaults/a/status", true, false},
		{http.MethodPost, "/api/v1/namespaces/a/secrets", true, true},
	} {
		w, ok := newWrite(httptest.NewRequest(tt.method, tt.url, nil), nil)
		if ok != tt.write || w.Counts() != tt.counts {
			t.Errorf("%s %s: write %v, counts %v", tt.method, tt.url, ok, w.Counts())
		}
	}
}

func TestCoverageKillsOnBothSides(t *testing.T) {
	a, b := Write{Method: "DELETE", Path: "/api/v1/namespaces/x/pods/a"}, Write{Method: "DELETE", Path: "/api/v1/namespaces/x/pods/b"}
	event := Write{Method: "POST", Path: "/api/v1/namespaces/x/events"}
	c := NewCoverage()
	got := ""
	for _, step := range []struct {
		w  Write
		at Moment
	}{{a, Before}, {event, Before}, {a, Before}, {a, After}, {a, Before}, {a, After}, {b, Before}} {
		if c.Kill(step.w, step.at) {
			got += "k"
		} else {
			got += "-"
		}
	}
	if got != "k--k--k" {
		t.Errorf("kills %s", got)
	}
	if missing := c.Missing([]Write{a, b, event}); len(missing) != 1 || !strings.Contains(missing[0], "pods x/b (after)") {
		t.Errorf("missing %q", missing)
	}
}

package manifests_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lockstep-dr/lockstep/manifests"
)

func TestObjects(t *testing.T) {
	objects, err := manifests.Objects("registry.example/lockstep:v1")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for i, o := range objects {
		kinds[o.GetKind()]++
		if i == 0 && o.GetKind() != "Namespace" {
			t.Errorf("the first object is a %s: nothing else can be created before the namespace", o.GetKind())
		}
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), `"IMAGE"`) {
			t.Errorf("%s %s has the placeholder of the image left", o.GetKind(), o.GetName())
		}
		if got := strings.Count(string(data), "registry.example/lockstep:v1"); o.GetKind() == "Deployment" && got != 2 {
			t.Errorf("the deployment names the image %d times, want it as its own and as the movers'", got)
		}
	}
	for kind, want := range map[string]int{
		"Namespace": 1, "CustomResourceDefinition": 4, "ServiceAccount": 2, "ClusterRole": 3, "Role": 1,
		"ClusterRoleBinding": 4, "RoleBinding": 1, "Deployment": 1,
		"ValidatingAdmissionPolicy": 2, "ValidatingAdmissionPolicyBinding": 2,
	} {
		if kinds[kind] != want {
			t.Errorf("%d objects of kind %s, want %d", kinds[kind], kind, want)
		}
	}
}

func TestNoImage(t *testing.T) {
	if _, err := manifests.Objects(""); err == nil {
		t.Error("a controller without an image was accepted")
	}
}

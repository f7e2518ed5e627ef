package render

import (
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// TestApplications looks into what Applications make of their sources, where the fixture's list of objects does not.
func TestApplications(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/repositories/argo.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	// Without a URL the repository is known by its paths.
	state := repository(t, tree(t, files), Options{})
	for owner, want := range map[string][]string{
		"Application argocd/chart": {"all: 9Gi gold 5 prod a,b"},
		"Application argocd/kustomized": {
			"image: postgres:17", "image: example.org/web:v2", "name: my-db", "replicas: 3", "serviceName: other", "team: shop",
		},
	} {
		got := asYAML(t, objectsOf(state, owner))
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("%s has no %q:\n%s", owner, text, got)
			}
		}
	}
}

func TestNormalURL(t *testing.T) {
	same := []string{
		"https://github.com/Acme/Apps", "https://github.com/acme/apps.git", "git@github.com:acme/apps.git", "ssh://git@github.com/acme/apps",
		"ssh://git@github.com:22/acme/apps.git/", "https://user:token@github.com/acme/apps",
	}
	for _, url := range same {
		if got := normalURL(url); got != "github.com/acme/apps" {
			t.Errorf("%s: got %s", url, got)
		}
	}
	if normalURL("https://github.com/acme/other") == normalURL(same[0]) || normalURL("https://example.org/acme/apps") == normalURL(same[0]) {
		t.Error("another repository is taken for the same")
	}
}

package git

import (
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTags(t *testing.T) {
	w, v1, v2 := shop(t)
	w.git("tag", "stable", v2)
	w.git("tag", "-a", "-m", "a tree", "tree", v2+"^{tree}")
	for name, location := range map[string]string{"served": serve(t, w).url(), "local": w.dir} {
		t.Run(name, func(t *testing.T) {
			tags, err := open(t, location, Options{}).Tags(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][]string{v1: tags[v1], v2: tags[v2]}
			if diff := cmp.Diff(map[string][]string{v1: {"first", "v1.0.0"}, v2: {"stable", "v2.0.0"}}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTagsAreUnknown(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	if tags, err := open(t, gone.URL+"/shop.git", Options{}).Tags(t.Context()); !errors.Is(err, ErrUnreachable) || tags != nil {
		t.Errorf("got %v, %v", tags, err)
	}
}

package git

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// suggestions is how many names an error offers.
const suggestions = 3

// nearest gives the names that look most like want.
func nearest(want string, names []string) []string {
	distance := map[string]int{}
	for _, n := range names {
		distance[n] = spelling.Distance(want, n)
	}
	names = slices.SortedFunc(slices.Values(names), func(a, b string) int {
		return cmp.Or(distance[a]-distance[b], strings.Compare(a, b))
	})
	return names[:min(suggestions, len(names))]
}

// neighbours says which directories there are where the path stops existing.
func neighbours(root *object.Tree, missing string) string {
	tree, parent := root, path.Dir(missing)
	for parent != "." {
		if t, err := root.Tree(parent); err == nil {
			tree = t
			break
		}
		parent = path.Dir(parent)
	}
	var dirs []string
	for _, e := range tree.Entries {
		if e.Mode == filemode.Dir {
			dirs = append(dirs, path.Join(parent, e.Name))
		}
	}
	if near := nearest(missing, dirs); len(near) > 0 {
		return "; nearest: " + strings.Join(near, ", ")
	}
	return ""
}

package coverage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// fleet is a repository of n applications with 20 objects each, in one cluster.
func fleet(b *testing.B, n int) *desired.State {
	all := &desired.State{Owners: []desired.Owner{{ID: rootID, Kind: desired.Kustomization, Namespace: "flux-system", Name: "flux-system", Prune: true}}}
	for i := range n {
		name := fmt.Sprintf("app-%d", i)
		docs := []string{kustomization(name), pvc(name, "files"), statefulset(name, "db", "data"), protect("schedule: 0 * * * *", "objectives: {rpo: 1h}"), webOf("files"), namespaceOf(name)}
		for j := range 15 {
			docs = append(docs, strings.ReplaceAll(other, "settings", fmt.Sprintf("settings-%d", j)))
		}
		s := stateOf(b, strings.ReplaceAll(join(docs...), "namespace: shop", "namespace: "+name))
		all.Objects = append(all.Objects, s.Objects...)
		all.Owners = append(all.Owners, s.Owners[len(s.Owners)-1])
		for _, o := range s.Owners {
			if o.Name == name {
				all.Owners[len(all.Owners)-1] = o
			}
		}
	}
	return all
}

func BenchmarkCheck(b *testing.B) {
	base, head := fleet(b, 1000), fleet(b, 1000)
	b.ResetTimer()
	for b.Loop() {
		Check(Input{Base: base, Head: head, Now: now})
	}
}

// BenchmarkPolicies has a namespace with many volumes and many policies with selectors, as nobody but a stranger would write it.
func BenchmarkPolicies(b *testing.B) {
	var docs []string
	for i := range 2000 {
		name := fmt.Sprintf("n%d", i)
		docs = append(docs, pvc("shop", name, "labels: {app: db}"),
			strings.ReplaceAll(protect("schedule: 0 * * * *", "volumes: {selector: {matchLabels: {app: db, name: "+name+"}}}"), "name: shop", "name: "+name))
	}
	head := stateOf(b, join(docs...))
	for b.Loop() {
		Check(Input{Head: head, Now: now})
	}
}

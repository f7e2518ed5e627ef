//go:build unix

package render

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// generated writes a repository of so many applications with so many objects each, of which the first have another content.
func generated(b *testing.B, applications, objects, changed int) Commit {
	b.Helper()
	root := b.TempDir()
	write := func(name, content string) {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("clusters/prod/flux-system/gotk-sync.yaml", `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux-system, namespace: flux-system}
spec: {path: ./clusters/prod, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`)
	for a := range applications {
		app := fmt.Sprintf("app-%04d", a)
		write("clusters/prod/"+app+".yaml", fmt.Sprintf(`apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[1]s, namespace: flux-system}
spec: {path: ./apps/%[1]s, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`, app))
		list := "resources:\n"
		for o := range objects {
			name := fmt.Sprintf("object-%02d", o)
			list += "- " + name + ".yaml\n"
			value := "old"
			if a < changed {
				value = "new"
			}
			content := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n  labels: {app: %s}\ndata:\n  key: %s\n", name, app, value)
			if o == 0 {
				content = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata:\n  name: db\nspec:\n  serviceName: db\n  selector: {matchLabels: {app: db}}\n" +
					"  template:\n    metadata: {labels: {app: db}}\n    spec:\n      containers:\n      - {name: db, image: \"postgres:16\", env: [{name: V, value: " + value + "}]}\n" +
					"  volumeClaimTemplates:\n  - metadata: {name: data}\n    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n"
			}
			write("apps/"+app+"/"+name+".yaml", content)
		}
		write("apps/"+app+"/kustomization.yaml", "namespace: "+app+"\n"+list)
	}
	return Commit{Root: root}
}

// BenchmarkRepository compares two commits of a repository of 1,000 applications with 20,000 objects, in which some applications
// changed. Beside it stands what kustomize alone takes to build those, once for each commit, on all cores.
func BenchmarkRepository(b *testing.B) {
	const applications, objects = 1_000, 20
	for _, changed := range []int{applications, 100, 0} {
		base, head := generated(b, applications, objects, 0), generated(b, applications, objects, changed)
		openapi.Schema()
		b.Run(fmt.Sprintf("changed=%d/compare", changed), func(b *testing.B) {
			start := cpu(b)
			for b.Loop() {
				before, after, err := compare(b.Context(), base, head)
				if err != nil || len(before.Owners) != applications+1 || len(after.Gaps) > 0 {
					b.Fatal(err)
				}
				if got := len(after.Objects); got < changed*objects || changed < applications && got > changed*objects+2*applications {
					b.Fatalf("%d objects", got)
				}
			}
			report(b, start)
		})
		b.Run(fmt.Sprintf("changed=%d/kustomize", changed), func(b *testing.B) {
			start := cpu(b)
			for b.Loop() {
				var group errgroup.Group
				group.SetLimit(runtime.GOMAXPROCS(0))
				for _, root := range []string{base.Root, head.Root} {
					for a := range changed {
						group.Go(func() error {
							options := &krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()}
							_, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), filepath.Join(root, fmt.Sprintf("apps/app-%04d", a)))
							return err
						})
					}
				}
				if err := group.Wait(); err != nil {
					b.Fatal(err)
				}
			}
			report(b, start)
		})
	}
}

// report says what processor time was used, which other work on the machine hardly changes, and how much memory the runtime holds.
func report(b *testing.B, start time.Duration) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-held")
	b.ReportMetric((cpu(b)-start).Seconds()/float64(b.N), "cpu-s/op")
}

func cpu(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

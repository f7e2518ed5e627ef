package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// repository is a work tree whose branch "base" every branch "head-N" leaves by a change of its first N applications.
type repository struct {
	options

	// dir is the work tree, before has the changed applications as base has them.
	dir, before string
}

func generate(ctx context.Context, dir string, o options) (*repository, error) {
	r := &repository{options: o, dir: filepath.Join(dir, "repository"), before: filepath.Join(dir, "before")}
	if err := r.writeCluster(); err != nil {
		return nil, err
	}
	for _, root := range []string{r.dir, r.before} {
		if err := r.writeApplications(root, o.applications, "old"); err != nil {
			return nil, err
		}
	}
	if err := r.git(ctx, "init", "-q", "-b", "base"); err != nil {
		return nil, err
	}
	if err := r.commit(ctx); err != nil {
		return nil, err
	}
	for _, changed := range o.changed {
		if err := r.git(ctx, "checkout", "-q", "-b", head(changed), "base"); err != nil {
			return nil, err
		}
		if err := r.writeApplications(r.dir, changed, "new"); err != nil {
			return nil, err
		}
		if err := r.commit(ctx); err != nil {
			return nil, err
		}
	}
	return r, r.git(ctx, "repack", "-adq") // as a clone has it
}

func head(changed int) string { return fmt.Sprintf("head-%d", changed) }

func application(n int) string { return fmt.Sprintf("app-%04d", n) }

// writeCluster writes what Flux's bootstrap does, and a Kustomization for each application.
func (r *repository) writeCluster() error {
	const kustomization = `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[1]s, namespace: flux-system}
spec: {path: ./%[2]s, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}
`
	if err := write(filepath.Join(r.dir, "clusters/prod/flux-system/gotk-sync.yaml"), fmt.Sprintf(kustomization, "flux-system", "clusters/prod")); err != nil {
		return err
	}
	for n := range r.applications {
		app := application(n)
		if err := write(filepath.Join(r.dir, "clusters/prod", app+".yaml"), fmt.Sprintf(kustomization, app, "apps/"+app)); err != nil {
			return err
		}
	}
	return nil
}

// writeApplications writes the first applications: a StatefulSet with a claim, and ConfigMaps, of which each has the value.
func (r *repository) writeApplications(root string, count int, value string) error {
	for n := range count {
		app := application(n)
		dir := filepath.Join(root, "apps", app)
		list := "resources:\n"
		if r.labelled {
			list = "labels: [{pairs: {part-of: shop}}]\n" + list
		}
		for o := range r.objects {
			name := fmt.Sprintf("object-%02d", o)
			list += "- " + name + ".yaml\n"
			content := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n  labels: {app: %s}\ndata:\n  key: %s\n", name, app, value)
			if o == 0 {
				content = fmt.Sprintf(statefulSet, value)
			}
			if err := write(filepath.Join(dir, name+".yaml"), content); err != nil {
				return err
			}
		}
		if err := write(filepath.Join(dir, "kustomization.yaml"), "namespace: "+app+"\n"+list); err != nil {
			return err
		}
	}
	return nil
}

const statefulSet = `apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: db
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - {name: db, image: "postgres:16", env: [{name: V, value: %s}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

func write(file, content string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), 0o644)
}

func (r *repository) checkOut(ctx context.Context, changed int) error {
	return r.git(ctx, "checkout", "-q", head(changed))
}

func (r *repository) commit(ctx context.Context) error {
	if err := r.git(ctx, "add", "-A"); err != nil {
		return err
	}
	return r.git(ctx, "-c", "gc.auto=0", "commit", "-q", "--allow-empty", "-m", "change")
}

func (r *repository) git(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", r.dir, "-c", "user.name=bench", "-c", "user.email=bench@lockstep.test"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Package lab drives the test clusters of test/cluster from Go: real one-node Kubernetes clusters on one machine with
// an S3 server and a Git server beside them. It runs the program "cluster", which `make` builds.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// ErrCannotRun is returned where clusters cannot run at all; its text says why.
var ErrCannotRun = errors.New("test clusters cannot run here")

// Lab is the network that the clusters share, with its servers.
type Lab struct {
	Address string `json:"address"`
	Git     struct {
		URL string `json:"url"`
		Dir string `json:"dir"`
	} `json:"git"`
	S3 struct {
		Endpoint  string `json:"endpoint"`
		AccessKey string `json:"accessKey"`
		SecretKey string `json:"secretKey"`
		Region    string `json:"region"`
	} `json:"s3"`
	// PID is the first process of the servers, in which all others end.
	PID int `json:"pid"`

	tools Tools
}

// Tools are the programs under test and those that test them.
type Tools struct {
	// Dir holds lockstep, controller, cluster and image.tar.
	Dir string
	// Image is the name of the controller's image in image.tar.
	Image string
}

// Built finds what `make build` made: in $LOCKSTEP_BIN, else in bin at the root of the checkout.
func Built() (Tools, error) {
	dir := os.Getenv("LOCKSTEP_BIN")
	if dir == "" {
		root, err := Root()
		if err != nil {
			return Tools{}, err
		}
		dir = filepath.Join(root, "bin")
	}
	for _, f := range []string{"lockstep", "controller", "cluster", "image.tar"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			return Tools{}, fmt.Errorf("%s is not built: run `make build image`", f)
		}
	}
	return Tools{Dir: dir, Image: "lockstep.test/controller:dev"}, nil
}

// Root is the top directory of the checkout.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside a checkout of lockstep")
		}
		dir = parent
	}
}

// Check says whether clusters can run on this machine, with ErrCannotRun.
func Check() error {
	switch {
	case runtime.GOOS != "linux":
		return fmt.Errorf("%w: this is %s, they need Linux", ErrCannotRun, runtime.GOOS)
	case os.Geteuid() != 0:
		return fmt.Errorf("%w: they need root, for namespaces, mounts and cgroups", ErrCannotRun)
	}
	return nil
}

// Start brings up the lab's network and servers, or finds them running, and waits until they answer.
func Start(ctx context.Context, tools Tools) (*Lab, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	l := &Lab{tools: tools}
	if _, err := l.cluster(ctx, "lab", "up"); err != nil {
		return nil, err
	}
	out, err := l.cluster(ctx, "lab", "info", "--wait", "-o", "json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, l); err != nil {
		return nil, fmt.Errorf("reading lab info: %w", err)
	}
	return l, nil
}

// Up brings up fresh clusters side by side with the controller's image loaded; those of the same names that are still
// there go first.
func (l *Lab) Up(ctx context.Context, names ...string) ([]*Cluster, error) {
	if _, err := l.cluster(ctx, append([]string{"down"}, names...)...); err != nil {
		return nil, err
	}
	out, err := l.cluster(ctx, append([]string{"up", "-o", "json"}, names...)...)
	if err != nil {
		return nil, err
	}
	var clusters []*Cluster
	if err := json.Unmarshal(out, &clusters); err != nil {
		return nil, fmt.Errorf("reading clusters: %w", err)
	}
	for _, c := range clusters {
		c.lab = l
		if _, err := l.cluster(ctx, "image", "load", c.Name, filepath.Join(l.tools.Dir, "image.tar")); err != nil {
			return nil, err
		}
		if err := c.connect(); err != nil {
			return nil, err
		}
	}
	return clusters, nil
}

// Bucket makes a bucket and returns the vault URL of a prefix in it.
func (l *Lab) Bucket(ctx context.Context, name, prefix string) (string, error) {
	if _, err := l.cluster(ctx, "lab", "bucket", name); err != nil {
		return "", err
	}
	return fmt.Sprintf("s3://%s/%s?endpoint=%s&region=%s", name, prefix, l.S3.Endpoint, l.S3.Region), nil
}

// Repository makes an empty bare repository and returns its URL.
func (l *Lab) Repository(ctx context.Context, name string) (string, error) {
	if _, err := l.cluster(ctx, "lab", "repo", name); err != nil {
		return "", err
	}
	return l.Git.URL + "/" + name + ".git", nil
}

// Lockstep runs the CLI against a cluster (nil: none) with the lab's S3 credentials, and copies what it says to the writer of
// the context, if any.
func (l *Lab) Lockstep(ctx context.Context, c *Cluster, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(l.tools.Dir, "lockstep"), args...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+l.S3.AccessKey, "AWS_SECRET_ACCESS_KEY="+l.S3.SecretKey, "CI=true")
	if c != nil {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig)
	}
	return run(ctx, cmd)
}

// Kubectl is the path of kubectl.
func (l *Lab) Kubectl(ctx context.Context) (string, error) {
	assets, err := l.cluster(ctx, "assets")
	return filepath.Join(trim(assets), "kubectl"), err
}

// Shell runs a script of bash as somebody would who has lockstep and kubectl at hand and these variables set.
func (l *Lab) Shell(ctx context.Context, script string, variables map[string]string) (string, error) {
	assets, err := l.cluster(ctx, "assets")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(os.Environ(), "CI=true", "PATH="+l.tools.Dir+":"+trim(assets)+":"+os.Getenv("PATH"))
	for name, value := range variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return run(ctx, cmd)
}

// Image is the controller's image, loaded in every cluster.
func (l *Lab) Image() string { return l.tools.Image }

// Controller is the path of the controller's binary, to run it outside a cluster.
func (l *Lab) Controller() string { return filepath.Join(l.tools.Dir, "controller") }

func (l *Lab) cluster(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(l.tools.Dir, "cluster"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cluster %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// ExitError is a command that ended with another code than 0.
type ExitError struct {
	Args   []string
	Code   int
	Output string
}

// Error gives the command, its exit code and all that it printed.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d\n%s", strings.Join(e.Args, " "), e.Code, e.Output)
}

func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, all bytes.Buffer
	echo := writerFrom(ctx)
	cmd.Stdout = multi(&stdout, &all, echo)
	cmd.Stderr = multi(&all, echo)
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		args := append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...)
		return stdout.String(), &ExitError{Args: args, Code: exit.ExitCode(), Output: all.String()}
	}
	return stdout.String(), err
}

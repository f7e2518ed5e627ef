// Package podexec runs commands in containers of other people's pods.
package podexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

// Target is a running container.
type Target struct{ Namespace, Pod, Container string }

// Result is what a command that ran to its end left.
type Result struct {
	// Stdout and Stderr are the first 4 KiB of each.
	Stdout, Stderr string
	// Code is the exit code.
	Code int
}

// Executor runs commands through the API server and the kubelet. It speaks SPDY: that takes the permission to create pods/exec, and no
// other.
type Executor struct {
	Config *rest.Config
	Kube   kubernetes.Interface
}

// Run runs a command and waits for its end. An error says that it is not known how it ended: it may not have begun, and it may still run.
func (e *Executor) Run(ctx context.Context, t Target, argv ...string) (Result, error) {
	url := e.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.Namespace).Name(t.Pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: t.Container, Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	remote, err := remotecommand.NewSPDYExecutor(e.Config, "POST", url)
	if err != nil {
		return Result{}, fmt.Errorf("connecting to pod %q: %w", t.Pod, err)
	}
	var stdout, stderr start
	err = remote.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var ended exec.CodeExitError
	switch {
	case errors.As(err, &ended):
		result.Code = ended.Code
	case err != nil:
		return result, fmt.Errorf("running a command in container %q of pod %q: %w", t.Container, t.Pod, err)
	}
	return result, nil
}

// limit is how much of an output is kept, in bytes.
const limit = 4 << 10

// start keeps the beginning of what is written, and swallows the rest.
type start struct{ bytes.Buffer }

func (s *start) Write(p []byte) (int, error) {
	s.Buffer.Write(p[:min(len(p), limit-s.Len())])
	return len(p), nil
}

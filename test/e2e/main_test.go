// Package e2e tests the main flows on real clusters: a real API server, kubelet, CSI driver and snapshots, a real S3 server
// and a real Git server.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lockstep-dr/lockstep/test/lab"
)

// env is what the tests share: clusters are the dear part.
type env struct {
	lab      *lab.Lab
	prod, dr *lab.Cluster
	vault    string // URL
	key      string // file
	// failures are what explain found, to be told at the end, before the reasons.
	failures []string
}

var shared env

// patience bounds each wait for what comes by itself. It is long, since it costs nothing where all is well, and what is slow is no
// failure: a machine may be several times slower than the one that a test was written on.
const patience = 5 * time.Minute

func TestMain(m *testing.M) {
	code, err := runAll(m)
	switch {
	case errors.Is(err, lab.ErrCannotRun):
		fmt.Println("NOT RUN: the end-to-end tests:", err)
	case err != nil:
		fmt.Fprintln(os.Stderr, "end-to-end tests:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	log.SetLogger(logr.Discard()) // what matters is in errors
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if err := lab.Check(); err != nil {
		return 0, err
	}
	tools, err := lab.Built()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	fmt.Println("bringing up clusters e2e-prod and e2e-dr, an S3 server and a Git server")
	if shared.lab, err = lab.Start(ctx, tools); err != nil {
		return 0, err
	}
	clusters, err := shared.lab.Up(ctx, "e2e-prod", "e2e-dr")
	if err != nil {
		return 0, err
	}
	shared.prod, shared.dr = clusters[0], clusters[1]
	defer func() {
		for _, c := range clusters {
			if err := c.Down(context.WithoutCancel(ctx)); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	dir, err := os.MkdirTemp("", "lockstep-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	shared.key = filepath.Join(dir, "vault.key")
	name := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	if shared.vault, err = shared.lab.Bucket(ctx, name, "vault"); err != nil {
		return 0, err
	}
	if _, err := shared.lab.Lockstep(ctx, nil, "vault", "init", shared.vault, "--key-file", shared.key); err != nil {
		return 0, err
	}
	if _, err := shared.lab.Lockstep(ctx, shared.prod, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key); err != nil {
		return 0, err
	}
	fmt.Printf("clusters, vault and Lockstep on prod are ready after %.0f s\n", time.Since(start).Seconds())
	code, why, err := lab.RunTests(m, "failure_test.go")
	for _, last := range append(shared.failures, why...) {
		fmt.Println(last)
	}
	return code, err
}

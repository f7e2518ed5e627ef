package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// terminationLog is where a kubelet reads the last words of a container.
const terminationLog = "/dev/termination-log"

func newMover() *cobra.Command {
	return &cobra.Command{
		Use: "mover", Short: "Copy volumes to or from a vault, as the controller's Job says", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runMover(cmd.Context()) },
	}
}

func runMover(ctx context.Context) error {
	tasks, err := mover.ParseTasks(os.Getenv(mover.TaskEnv))
	if err != nil {
		return err
	}
	open := func(ctx context.Context, url string) (*volume.Vault, error) {
		return openVault(ctx, url, mover.PlaceOf(tasks, url))
	}
	results, err := mover.Run(ctx, tasks, open, os.Stdout, func(all mover.Results) error {
		if err := os.WriteFile(terminationLog, all.Encode(tasks), 0o644); err != nil {
			return fmt.Errorf("leaving the results: %w", err)
		}
		return nil
	})
	for _, r := range results {
		if r.Error != "" {
			err = errors.Join(err, errors.New(r.Error))
		}
	}
	return err
}

// openVault opens the vault with what the Job mounted and set.
func openVault(ctx context.Context, url string, at mover.Place) (*volume.Vault, error) {
	key, err := os.ReadFile(at.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the vault's key: %w", err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(key))
	if err != nil {
		return nil, errors.New("the vault's key is not an age identity") // the cause may quote it
	}
	ca, err := os.ReadFile(at.CA)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the store's certificates: %w", err)
	}
	env := func(name string) string { return strings.TrimSpace(os.Getenv(at.Env + name)) }
	s, err := backend.Open(ctx, url, backend.Credentials{
		AccessKeyID: env("ACCESS_KEY_ID"), SecretAccessKey: env("SECRET_ACCESS_KEY"),
		SessionToken: env("SESSION_TOKEN"), CACert: ca,
	})
	if err != nil {
		return nil, err
	}
	return volume.Open(ctx, s, identities...)
}

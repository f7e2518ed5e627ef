//go:build linux

package lab

import (
	"context"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

func cephProcesses(context.Context, Lab) ([]supervise.Process, error) { return nil, nil }

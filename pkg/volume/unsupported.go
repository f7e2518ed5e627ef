//go:build !linux

package volume

import (
	"context"
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("%w: saving and loading need Linux", errors.ErrUnsupported)

func scanTree(context.Context, string, *saver) (Roots, *FileErrors, error) {
	return Roots{}, nil, errLinux
}

func digestTree(context.Context, string) (Roots, error) { return Roots{}, errLinux }

func loadTree(context.Context, string, *record, *fetcher, LoadOptions, *progress) (*LoadResult, error) {
	return nil, errLinux
}

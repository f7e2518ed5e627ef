// Package cluster carries what the cluster program builds its Kubernetes from,
// so that the program works wherever its binary is.
package cluster

import "embed"

// Sources is the part of this module that the Kubernetes binaries are built
// from: the pinned module versions and the two small main packages.
//
//go:embed go.mod go.sum cmd/kube cmd/pause
var Sources embed.FS

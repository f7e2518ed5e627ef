//go:build linux

package node

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/pki"
)

//go:embed config/* manifests/*
var files embed.FS

// render writes the certificates and the configuration of a cluster.
func render(c Cluster, now time.Time) error {
	for _, d := range []string{"etc/cni", "pki", "log", "run", "data", "local"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	if err := pki.Write(c.path("pki"), now, pki.Options{Cluster: c.Name, Node: c.Node, Address: c.Address, ServiceIP: serviceIP}); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	admin, err := os.ReadFile(c.path("pki", "admin.kubeconfig"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Kubeconfig, admin, 0o600); err != nil {
		return err
	}
	for name, to := range map[string]string{
		"containerd.toml": "etc/containerd.toml", "kubelet.yaml": "etc/kubelet.yaml", "cni.conflist": "etc/cni/10-lockstep.conflist",
	} {
		b, err := configFile(c, name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.path(filepath.FromSlash(to)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func configFile(c Cluster, name string) ([]byte, error) {
	t, err := template.ParseFS(files, "config/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, struct{ PodCIDR, DNS, Cgroup string }{c.PodCIDR, dnsIP, c.cgroup()})
	return b.Bytes(), err
}

package pki

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func TestWrite(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := Write(dir, now, Options{Cluster: "a", Node: "a-node", Address: "10.77.0.2", ServiceIP: "10.96.0.1"}); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(t, dir, "ca.crt")) {
		t.Fatal("ca.crt holds no certificate")
	}
	for _, name := range []string{"10.77.0.2", "10.96.0.1", "127.0.0.1", "kubernetes.default.svc"} {
		if err := verify(t, dir, "apiserver.crt", roots, now, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := verify(t, dir, "apiserver.crt", roots, now, "10.77.0.3"); err == nil {
		t.Error("the certificate is good for a neighbour's address too")
	}
	config, err := clientcmd.Load(read(t, dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Clusters[config.Contexts[config.CurrentContext].Cluster].Server; got != "https://10.77.0.2:6443" {
		t.Errorf("server %q", got)
	}
	// It must work on its own, wherever it is copied to.
	if err := clientcmd.ConfirmUsable(*config, ""); err != nil {
		t.Error(err)
	}
	if user := config.AuthInfos["a"]; len(user.ClientCertificateData) == 0 || len(user.ClientKeyData) == 0 {
		t.Error("the kubeconfig does not hold its credentials")
	}
}

func verify(t *testing.T, dir, file string, roots *x509.CertPool, now time.Time, name string) error {
	t.Helper()
	block, _ := pem.Decode(read(t, dir, file))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: name})
	return err
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Package pki makes the certificates and kubeconfigs of a cluster.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// validity is far longer than a test cluster lives.
const validity = 90 * 24 * time.Hour

// Authority signs the certificates of one cluster.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
	now  time.Time
}

// Pair is a certificate and its private key, both in PEM.
type Pair struct{ Cert, Key []byte }

// NewAuthority makes a self-signed authority, valid from a day before now so
// that a clock that was set back does no harm.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lockstep-test-ca"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(validity),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: cert, key: key, now: now, pem: encode("CERTIFICATE", der)}, nil
}

// Cert is the authority's certificate in PEM.
func (a *Authority) Cert() []byte { return a.pem }

// Issue makes a certificate for servers and clients. Names may be DNS names
// and IP addresses.
func (a *Authority) Issue(user string, groups []string, names ...string) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("issuing a certificate for %q: %w", user, err)
	}
	keyPEM, err := encodeKey(key)
	return Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, err
}

// SigningKey makes a key pair that service account tokens are signed with.
func SigningKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if private, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return private, encode("PUBLIC KEY", der), err
}

// Kubeconfig renders a kubeconfig that holds the credentials themselves.
func (a *Authority) Kubeconfig(cluster, server string, user Pair) ([]byte, error) {
	return clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{cluster: {Server: server, CertificateAuthorityData: a.pem}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{cluster: {ClientCertificateData: user.Cert, ClientKeyData: user.Key}},
		Contexts:       map[string]*clientcmdapi.Context{cluster: {Cluster: cluster, AuthInfo: cluster}},
		CurrentContext: cluster,
	})
}

// Options describe one node cluster.
type Options struct {
	Cluster, Node string
	Address       string // of the node, where the API server is reached from outside
	ServiceIP     string // of the API server inside the cluster
}

// Write fills dir with everything a one-node cluster needs: ca.crt,
// apiserver.{crt,key}, kubelet.{crt,key}, client.{crt,key}, sa.{pub,key},
// kubeconfigs for its components, and admin.kubeconfig for the outside.
func Write(dir string, now time.Time, o Options) error {
	ca, err := NewAuthority(now)
	if err != nil {
		return err
	}
	w := &writer{dir: dir}
	w.put("ca.crt", ca.Cert(), nil)
	private, public, err := SigningKey()
	w.put("sa.key", private, err)
	w.put("sa.pub", public, err)
	w.pair(ca, "apiserver", "kube-apiserver", nil, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "127.0.0.1", o.ServiceIP, o.Address)
	w.pair(ca, "kubelet", "system:node:"+o.Node, []string{"system:nodes"}, o.Node, "127.0.0.1", o.Address)
	w.pair(ca, "client", "kube-apiserver-kubelet-client", []string{"system:masters"})

	const inside = "https://127.0.0.1:6443"
	w.kubeconfig(ca, "admin", "https://"+net.JoinHostPort(o.Address, "6443"), o.Cluster, "admin", "system:masters")
	w.kubeconfig(ca, "local", inside, o.Cluster, "local-admin", "system:masters")
	w.kubeconfig(ca, "controller-manager", inside, o.Cluster, "system:kube-controller-manager")
	w.kubeconfig(ca, "scheduler", inside, o.Cluster, "system:kube-scheduler")
	w.kubeconfig(ca, "proxy", inside, o.Cluster, "system:kube-proxy")
	w.kubeconfig(ca, "node", inside, o.Cluster, "system:node:"+o.Node, "system:nodes")
	return w.err
}

// writer keeps the first error so that Write reads as a list.
type writer struct {
	dir string
	err error
}

func (w *writer) put(name string, b []byte, err error) {
	if w.err == nil {
		w.err = err
	}
	if w.err == nil {
		w.err = os.WriteFile(filepath.Join(w.dir, name), b, 0o600)
	}
}

func (w *writer) pair(ca *Authority, file, user string, groups []string, names ...string) {
	p, err := ca.Issue(user, groups, names...)
	w.put(file+".crt", p.Cert, err)
	w.put(file+".key", p.Key, err)
}

func (w *writer) kubeconfig(ca *Authority, file, server, cluster, user string, groups ...string) {
	p, err := ca.Issue(user, groups)
	if err != nil {
		w.put(file, nil, err)
		return
	}
	b, err := ca.Kubeconfig(cluster, server, p)
	w.put(file+".kubeconfig", b, err)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return encode("PRIVATE KEY", der), err
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

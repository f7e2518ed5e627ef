//go:build linux

package node

import (
	"net"
	"path/filepath"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

const (
	etcdURL = "http://127.0.0.1:2379"
	apiURL  = "https://127.0.0.1:6443"

	proxyPort = "10256" // where kube-proxy says how it is

	containerdSocket = inside + "/run/containerd.sock"
	driverSocket     = inside + "/data/kubelet/plugins/csi.lockstep.test/csi.sock"
	registration     = inside + "/data/kubelet/plugins_registry/csi.lockstep.test-reg.sock"
)

// components are the programs of a cluster, each with what it must wait for.
func components(c Cluster) []supervise.Process {
	apiReady := supervise.HTTPS(apiURL + "/readyz")
	kube := func(name string, args ...string) supervise.Process {
		return supervise.Process{Name: name, Argv: append([]string{filepath.Join(c.Bin, name)}, args...), Wait: apiReady}
	}
	self := func(name string, args ...string) supervise.Process {
		return supervise.Process{Name: name, Argv: append([]string{"/proc/self/exe", "internal", name}, args...), Wait: apiReady}
	}
	admin := kubeconfig("local")

	etcd := kube("etcd", etcdArgs()...)
	etcd.Wait = nil
	apiserver := kube("kube-apiserver", apiserverArgs(c)...)
	apiserver.Wait = supervise.TCP("127.0.0.1:2379")
	kubelet := kube("kubelet", "--config="+inside+"/etc/kubelet.yaml", "--kubeconfig="+kubeconfig("node"),
		"--root-dir="+inside+"/data/kubelet", "--cert-dir="+inside+"/data/kubelet-pki",
		"--hostname-override="+c.Node, "--node-ip="+c.Address)
	// The kubelet looks up the container engine once; it is up long before.
	snapshotter := kube("csi-snapshotter", append(unthrottled(admin), "--csi-address="+driverSocket, "--timeout=60s")...)
	snapshotter.Wait = supervise.File(driverSocket)

	return []supervise.Process{
		etcd,
		{Name: "containerd", Argv: []string{"/usr/bin/containerd", "-c", inside + "/etc/containerd.toml"}},
		apiserver,
		kube("kube-controller-manager", controllerArgs("controller-manager",
			"--use-service-account-credentials=true", "--service-account-private-key-file="+pkiFile("sa.key"),
			"--root-ca-file="+pkiFile("ca.crt"))...),
		kube("kube-scheduler", controllerArgs("scheduler")...),
		kubelet,
		kube("kube-proxy", proxyArgs(c)...),
		self("dns", "--kubeconfig="+admin, "--listen="+dnsIP+":53"),
		self("csi", "--kubeconfig="+admin, "--node="+c.Node, "--pool="+inside+"/pool", "--local="+inside+"/local",
			"--socket="+driverSocket, "--registration="+registration),
		kube("snapshot-controller", unthrottled(admin)...),
		snapshotter,
	}
}

// unthrottled connects a sidecar without its default of five requests a second, which would make every snapshot wait.
func unthrottled(kubeconfig string) []string {
	return []string{"--kubeconfig=" + kubeconfig, "--kube-api-qps=100", "--kube-api-burst=200"}
}

func pkiFile(name string) string    { return inside + "/pki/" + name }
func kubeconfig(name string) string { return pkiFile(name + ".kubeconfig") }

func etcdArgs() []string {
	const peers = "http://127.0.0.1:2380"
	return []string{
		"--name=lockstep", "--data-dir=" + inside + "/data/etcd",
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=lockstep=" + peers,
		"--unsafe-no-fsync", "--log-level=warn",
	}
}

func apiserverArgs(c Cluster) []string {
	return []string{
		"--etcd-servers=" + etcdURL, "--secure-port=6443", "--bind-address=0.0.0.0", "--advertise-address=" + c.Address,
		"--tls-cert-file=" + pkiFile("apiserver.crt"), "--tls-private-key-file=" + pkiFile("apiserver.key"),
		"--client-ca-file=" + pkiFile("ca.crt"),
		"--service-account-key-file=" + pkiFile("sa.pub"), "--service-account-signing-key-file=" + pkiFile("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate=" + pkiFile("client.crt"), "--kubelet-client-key=" + pkiFile("client.key"),
		"--kubelet-certificate-authority=" + pkiFile("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--profiling=false",
	}
}

func controllerArgs(user string, more ...string) []string {
	k := kubeconfig(user)
	return append([]string{
		"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
		"--authentication-tolerate-lookup-failure=true", "--bind-address=127.0.0.1", "--leader-elect=false",
		// The usual limits hold a fresh cluster back for seconds.
		"--kube-api-qps=500", "--kube-api-burst=1000",
	}, more...)
}

// proxyArgs leave alone the connection tracking settings, which are the whole
// machine's.
func proxyArgs(c Cluster) []string {
	return []string{
		"--kubeconfig=" + kubeconfig("proxy"), "--proxy-mode=iptables", "--bind-address=" + c.Address,
		"--hostname-override=" + c.Node, "--cluster-cidr=" + c.PodCIDR,
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		"--healthz-bind-address=" + net.JoinHostPort(c.Address, proxyPort), "--metrics-bind-address=127.0.0.1:10249",
	}
}

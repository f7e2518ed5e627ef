//go:build linux

package csi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// LocalProvisioner is the name of the provisioner of volumes that are plain
// directories of the node.
const LocalProvisioner = "local.lockstep.test"

// Provision makes and deletes volumes for claims, of this driver and of the
// local class whose volumes are directories below localDir, until the context
// ends.
func (d *Driver) Provision(ctx context.Context, config *rest.Config, localDir string) error {
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	s, err := snapclient.NewForConfig(config)
	if err != nil {
		return err
	}
	options := []func(*controller.ProvisionController) error{
		controller.LeaderElection(false), controller.RetryIntervalMax(2 * time.Second),
	}
	var wg sync.WaitGroup
	for name, p := range map[string]controller.Provisioner{
		Name:             &provisioner{driver: d, kube: k, snapshots: s},
		LocalProvisioner: &localProvisioner{dir: localDir, node: d.node},
	} {
		wg.Go(func() { controller.NewProvisionController(ctx, k, name, p, options...).Run(ctx) })
	}
	wg.Wait()
	return ctx.Err()
}

// provisioner turns claims into calls of the driver.
type provisioner struct {
	driver    *Driver
	kube      kubernetes.Interface
	snapshots snapclient.Interface
}

// Provision implements controller.Provisioner.
func (p *provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	source, err := p.source(ctx, o.PVC)
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	size := o.PVC.Spec.Resources.Requests[corev1.ResourceStorage]
	r, err := p.driver.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: o.PVName, VolumeContentSource: source, Parameters: o.StorageClass.Parameters,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size.Value()},
		VolumeCapabilities: []*csi.VolumeCapability{capability(o.PVC)},
	})
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	pv := volumeFor(o, TopologyKey, p.driver.node)
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: Name, VolumeHandle: r.GetVolume().GetVolumeId()}
	return pv, controller.ProvisioningFinished, nil
}

// SupportsBlock implements controller.BlockProvisioner.
func (p *provisioner) SupportsBlock(context.Context) bool { return true }

func capability(c *corev1.PersistentVolumeClaim) *csi.VolumeCapability {
	if c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
	}
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
}

// Delete implements controller.Provisioner.
func (p *provisioner) Delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Name {
		return &controller.IgnoredError{Reason: "another driver's volume"}
	}
	_, err := p.driver.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: pv.Spec.CSI.VolumeHandle})
	return err
}

// source finds what a claim is to begin as. A kind of source that is not a
// driver's to fill is left to a populator, as csi-provisioner does.
func (p *provisioner) source(ctx context.Context, c *corev1.PersistentVolumeClaim) (*csi.VolumeContentSource, error) {
	var kind, name string
	switch s, ref := c.Spec.DataSource, c.Spec.DataSourceRef; {
	case s != nil:
		kind, name = s.Kind, s.Name
	case ref != nil:
		kind, name = ref.Kind, ref.Name
	default:
		return nil, nil
	}
	switch kind {
	case "PersistentVolumeClaim":
		return p.fromClaim(ctx, c.Namespace, name)
	case "VolumeSnapshot":
		return p.fromSnapshot(ctx, c.Namespace, name)
	}
	return nil, &controller.IgnoredError{Reason: fmt.Sprintf("a source of kind %q is for a populator to fill", kind)}
}

func (p *provisioner) fromClaim(ctx context.Context, namespace, name string) (*csi.VolumeContentSource, error) {
	claim, err := p.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if claim.Spec.VolumeName == "" {
		return nil, fmt.Errorf("claim %q is not bound", name)
	}
	pv, err := p.kube.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Name {
		return nil, fmt.Errorf("claim %q has a volume of another driver", name)
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: pv.Spec.CSI.VolumeHandle}}}, nil
}

func (p *provisioner) fromSnapshot(ctx context.Context, namespace, name string) (*csi.VolumeContentSource, error) {
	s, err := p.snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if s.Status == nil || s.Status.ReadyToUse == nil || !*s.Status.ReadyToUse || s.Status.BoundVolumeSnapshotContentName == nil {
		return nil, fmt.Errorf("snapshot %q is not ready", name)
	}
	content, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, *s.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if content.Spec.Driver != Name || content.Status == nil || content.Status.SnapshotHandle == nil {
		return nil, fmt.Errorf("content %q of snapshot %q is another driver's or not ready", content.Name, name)
	}
	if ref := content.Spec.VolumeSnapshotRef; ref.UID != s.UID {
		return nil, fmt.Errorf("content %q belongs to another snapshot than %q", content.Name, name)
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: *content.Status.SnapshotHandle}}}, nil
}

// localProvisioner makes a plain directory for each claim. Like those that
// people use for local disks it knows no snapshots and takes no notice of a
// claim's dataSourceRef.
type localProvisioner struct{ dir, node string }

// Provision implements controller.Provisioner.
func (p *localProvisioner) Provision(_ context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	dir := filepath.Join(p.dir, o.PVName)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	pv := volumeFor(o, corev1.LabelHostname, p.node)
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: dir}
	return pv, controller.ProvisioningFinished, nil
}

// Delete implements controller.Provisioner.
func (p *localProvisioner) Delete(_ context.Context, pv *corev1.PersistentVolume) error {
	if pv.Spec.Local == nil || filepath.Dir(pv.Spec.Local.Path) != p.dir {
		return &controller.IgnoredError{Reason: "not a directory of ours"}
	}
	return os.RemoveAll(pv.Spec.Local.Path)
}

// volumeFor describes a volume for the claim, on the node with this label.
func volumeFor(o controller.ProvisionOptions, label, node string) *corev1.PersistentVolume {
	mode := corev1.PersistentVolumeFilesystem
	if o.PVC.Spec.VolumeMode != nil {
		mode = *o.PVC.Spec.VolumeMode
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			VolumeMode:                    &mode,
			MountOptions:                  o.StorageClass.MountOptions,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: o.PVC.Spec.Resources.Requests[corev1.ResourceStorage]},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: label, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
		},
	}
}

package cmd

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

const (
	// envImage stands in for --image.
	envImage = "LOCKSTEP_IMAGE"
	// startsWithin bounds the wait for the controller's pod; an image may have to be pulled.
	startsWithin = 5 * time.Minute
	// aliveFor is how long ago a controller's lease may have been renewed for it to count as running.
	aliveFor = time.Minute
)

// setupOptions say how Lockstep and a Vault get into a cluster.
type setupOptions struct {
	image     string
	vaultName string
	// withoutGate leaves out what holds deploys until their restore point is complete.
	withoutGate bool
}

func (o *setupOptions) addFlags(f *pflag.FlagSet, image string) {
	f.StringVar(&o.image, "image", image, "image of the controller (default $"+envImage+")")
	f.StringVar(&o.vaultName, "vault-name", "primary", "name of the Vault to make in the cluster")
}

// installObjects applies everything of Lockstep and waits until the controller runs.
func (p *Program) installObjects(ctx context.Context, c *kube.Cluster, o setupOptions) error {
	objects, err := p.manifests(o)
	if err != nil {
		return err
	}
	gated, err := p.gatePossible(c, o)
	if err != nil {
		return err
	}
	if !gated {
		objects = slices.DeleteFunc(objects, isGate)
	}
	p.note("installing Lockstep into the cluster")
	if o.withoutGate {
		if err := p.removeGate(ctx, c); err != nil {
			return err
		}
	}
	// No owner labels: they would mark Lockstep itself as an application that Git holds.
	m := ssa.NewResourceManager(c, polling.NewStatusPoller(c, c.RESTMapper(), polling.Options{}),
		ssa.Owner{Field: v1alpha1.FieldManager, Group: v1alpha1.GroupVersion.Group})
	changes, err := m.ApplyAllStaged(ctx, objects, ssa.DefaultApplyOptions())
	if err != nil {
		return fmt.Errorf("installing: %w", err)
	}
	for _, e := range changes.Entries {
		p.note("  %s %s", e.Subject, e.Action)
	}
	return p.waitForController(ctx, c, objects)
}

func (p *Program) manifests(o setupOptions) ([]*unstructured.Unstructured, error) {
	image := cmp.Or(o.image, p.Getenv(envImage))
	if image == "" {
		return nil, fault.New(fault.Usage, "Name it with --image or $"+envImage+".", "no image for the controller")
	}
	objects, err := manifests.Objects(image)
	if o.withoutGate {
		objects = slices.DeleteFunc(objects, isGate)
	}
	return objects, err
}

// waitForController waits until the Deployments among the objects are available.
func (p *Program) waitForController(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	board := p.board()
	defer board.Clear()
	deadline := p.Now().Add(startsWithin)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for _, u := range objects {
		if u.GetKind() != "Deployment" {
			continue
		}
		for {
			var d appsv1.Deployment
			err := c.Get(ctx, client.ObjectKeyFromObject(u), &d)
			if err != nil && !kube.Unreachable(err) {
				return fmt.Errorf("reading the controller's Deployment: %w", err)
			}
			if err == nil && available(&d) {
				break
			}
			why := whyNotStarted(ctx, c, &d)
			board.Show(progress.Item{Name: "deployment " + u.GetName(), State: "Starting", Note: why})
			if p.Now().After(deadline) {
				return fault.New(fault.Failed, fmt.Sprintf("Look at its pods: kubectl -n %s describe pods", u.GetNamespace()),
					"%s", sentence("the controller did not start within "+spelling.Duration(startsWithin), why))
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
	return nil
}

func available(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas > 0 && d.Status.AvailableReplicas > 0
}

// whyNotStarted says what the containers of a Deployment wait for, such as an image that cannot be pulled. It is
// only shown: where it cannot be read there is nothing to show.
func whyNotStarted(ctx context.Context, c client.Client, d *appsv1.Deployment) string {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return ""
	}
	var pods corev1.PodList
	if c.List(ctx, &pods, client.InNamespace(d.Namespace), client.MatchingLabelsSelector{Selector: selector}) != nil {
		return ""
	}
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
				return sentence(w.Reason, w.Message)
			}
		}
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
				return sentence(cond.Reason, cond.Message)
			}
		}
	}
	return ""
}

// installed reports whether the cluster has Lockstep: its kinds, and a controller, be it a Deployment or a process
// elsewhere that holds a lease.
func installed(ctx context.Context, c client.Client, now time.Time) (bool, error) {
	err := c.List(ctx, &v1alpha1.VaultList{}, client.Limit(1))
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking whether Lockstep is installed: %w", err)
	}
	var deployments appsv1.DeploymentList
	if err := c.List(ctx, &deployments, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		return false, fmt.Errorf("looking for the controller: %w", err)
	}
	var leases coordinationv1.LeaseList
	if err := c.List(ctx, &leases, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		return false, fmt.Errorf("looking for the controller: %w", err)
	}
	for _, l := range leases.Items {
		if l.Spec.RenewTime != nil && now.Sub(l.Spec.RenewTime.Time) < aliveFor {
			return true, nil
		}
	}
	return len(deployments.Items) > 0, nil
}

// vaultInCluster is the name of the Vault in the cluster that the flags mean. For a URL the Vault is made where there is
// none, and Lockstep before it.
func (p *Program) vaultInCluster(ctx context.Context, c *kube.Cluster, o restoreOptions) (string, error) {
	if !vault.IsURL(o.vault.Vault) {
		v, err := vault.Find(ctx, c, o.vault.Vault)
		if err != nil {
			return "", err
		}
		return v.Name, nil
	}
	opened, err := p.openByURL(ctx, o.vault)
	if err != nil {
		return "", err
	}
	ok, err := installed(ctx, c, p.Now())
	if err != nil {
		return "", err
	}
	if !ok {
		if err := p.installObjects(ctx, c, o.setup); err != nil {
			return "", err
		}
	}
	return p.ensureVault(ctx, c, o.setup.vaultName, opened)
}

// ensureVault makes a Vault and its Secrets for an open vault, or finds the one that is there. It changes neither a Vault
// nor a Secret that exists.
func (p *Program) ensureVault(ctx context.Context, c client.Client, name string, opened *vault.Opened) (string, error) {
	spec, err := vault.Spec(opened.URL)
	if err != nil {
		return "", err
	}
	var list v1alpha1.VaultList
	if err := c.List(ctx, &list); err != nil {
		return "", fmt.Errorf("listing the vaults of the cluster: %w", err)
	}
	for _, v := range list.Items {
		switch same := samePlace(v.Spec, spec); {
		case same && v.Status.ID != "" && v.Status.ID != opened.ID():
			return "", fault.New(fault.Refused, "Delete the Vault if the new vault is meant: kubectl delete vault "+v.Name,
				"at %s is another vault now than Vault %q has seen there", opened.URL, v.Name)
		case same:
			return v.Name, nil
		case v.Name == name:
			return "", fault.New(fault.Refused, "Give another --vault-name.", "the cluster has a Vault %q at another place", name)
		}
	}
	spec.KeySecretRef.Name = "vault-" + name + "-key"
	if err := p.ensureSecret(ctx, c, spec.KeySecretRef.Name, map[string][]byte{mover.KeyEntry: opened.Key.Text}); err != nil {
		return "", err
	}
	if spec.S3 != nil {
		if err := p.ensureCredentials(ctx, c, "vault-"+name+"-credentials", spec.S3); err != nil {
			return "", err
		}
	}
	if spec.Filesystem != nil {
		p.note("note: %s must be mounted at the same path in the controller's pod", spec.Filesystem.Path)
	}
	v := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	if err := c.Create(ctx, v); err != nil {
		return "", fmt.Errorf("making the Vault: %w", err)
	}
	p.note("made Vault %s", name)
	return name, nil
}

func samePlace(a, b v1alpha1.VaultSpec) bool {
	a.Immutability, b.Immutability = nil, nil
	left, leftErr := mover.URL(a)
	right, rightErr := mover.URL(b)
	return leftErr == nil && rightErr == nil && left == right
}

// ensureCredentials puts the S3 credentials of the environment into a Secret, and says so. Without any, the pods use
// their ambient ones.
func (p *Program) ensureCredentials(ctx context.Context, c client.Client, name string, s3 *v1alpha1.S3Location) error {
	id, key, token := p.Getenv("AWS_ACCESS_KEY_ID"), p.Getenv("AWS_SECRET_ACCESS_KEY"), p.Getenv("AWS_SESSION_TOKEN")
	if id == "" || key == "" {
		p.note("note: no AWS_ACCESS_KEY_ID in the environment: the controller and its movers use the credentials of their pods")
		return nil
	}
	data := map[string][]byte{mover.AccessKeyIDEntry: []byte(id), mover.SecretAccessKeyEntry: []byte(key)}
	if token != "" {
		data[mover.SessionTokenEntry] = []byte(token)
		p.note("warning: the S3 credentials of the environment are temporary: backups fail when they expire")
	}
	if bundle := p.Getenv("AWS_CA_BUNDLE"); bundle != "" {
		text, err := os.ReadFile(bundle)
		if err != nil {
			return fault.New(fault.Usage, "", "reading $AWS_CA_BUNDLE: %w", err)
		}
		data[mover.CAEntry] = text
	}
	p.note("copying the S3 credentials of the environment (AWS_ACCESS_KEY_ID …) into Secret %s/%s", v1alpha1.SystemNamespace, name)
	s3.CredentialsSecretRef = &v1alpha1.SecretReference{Name: name}
	return p.ensureSecret(ctx, c, name, data)
}

// ensureSecret makes a Secret. One that exists must hold the same.
func (p *Program) ensureSecret(ctx context.Context, c client.Client, name string, data map[string][]byte) error {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Type:       corev1.SecretTypeOpaque, Data: data,
	}
	err := c.Create(ctx, s)
	if err == nil {
		p.note("made Secret %s/%s", s.Namespace, s.Name)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making Secret %s: %w", name, err)
	}
	var existing corev1.Secret
	if err := c.Get(ctx, client.ObjectKeyFromObject(s), &existing); err != nil {
		return fmt.Errorf("reading Secret %s: %w", name, err)
	}
	for entry, value := range data {
		if !bytes.Equal(existing.Data[entry], value) {
			return fault.New(fault.Refused, "Delete it if it is no longer needed, or give another --vault-name.",
				"Secret %s/%s exists and holds something else", s.Namespace, name)
		}
	}
	return nil
}

// waitForVault waits until the controller has opened the Vault.
func (p *Program) waitForVault(ctx context.Context, c client.Client, name string) error {
	v := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name}}
	board := p.board()
	err := p.waiter(c, startsWithin).wait(ctx, "vault/"+name, v, func() {
		cond := ready(v)
		board.Show(progress.Item{Name: "vault " + name, State: cond.Reason, Note: cond.Message})
	})
	board.Clear()
	if err != nil {
		return err
	}
	if cond := ready(v); cond.Status != metav1.ConditionTrue {
		return fault.New(fault.Failed, "", "vault %s is not ready: %s", name, sentence(cond.Reason, cond.Message))
	}
	return nil
}

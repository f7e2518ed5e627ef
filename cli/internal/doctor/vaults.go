package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// keepCopy is what nobody can check from here.
const keepCopy = "whether a copy of the key lies outside of the cluster and of the vault, only you can know: without it the vault cannot be read " +
	"once this cluster is gone"

// condition is the Ready condition of an object, Unknown where the controller has not looked at it.
func condition(conditions []metav1.Condition) metav1.Condition {
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil {
		return *c
	}
	return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonProgressing, Message: "the controller has not looked at it yet"}
}

func checkVaults(ctx context.Context, s *Subject) ([]Finding, error) {
	vaults, err := s.allVaults(ctx)
	if err != nil {
		return nil, err
	}
	if len(vaults) == 0 {
		return []Finding{problem("lockstep vault init URL --key-file F, then lockstep install --vault URL --key-file F",
			"there is no Vault: nothing is protected")}, nil
	}
	var out []Finding
	for i := range vaults {
		v := &vaults[i]
		switch c := condition(v.Status.Conditions); c.Status {
		case metav1.ConditionTrue:
			out = append(out, ok("vault %s is open, with %d points", v.Name, v.Status.Points))
		case metav1.ConditionUnknown:
			out = append(out, unknown("lockstep describe vault/"+v.Name, "vault %s: %s: %s", v.Name, c.Reason, c.Message))
		default:
			out = append(out, problem("lockstep describe vault/"+v.Name, "vault %s: %s: %s", v.Name, c.Reason, c.Message))
		}
	}
	return out, nil
}

func checkVaultKeys(ctx context.Context, s *Subject) ([]Finding, error) {
	vaults, err := s.allVaults(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for i := range vaults {
		found, err := s.keyOf(ctx, &vaults[i])
		if err != nil {
			return out, err
		}
		out = append(out, found)
	}
	return out, nil
}

// keyOf looks at the Secret with the key, of which nothing is ever shown.
func (s *Subject) keyOf(ctx context.Context, v *v1alpha1.Vault) (Finding, error) {
	secret := v.Spec.KeySecretRef.Name
	fix := "kubectl -n " + v1alpha1.SystemNamespace + " create secret generic " + secret + " --from-file=" + mover.KeyEntry + "=vault.key"
	var found corev1.Secret
	err := s.Cluster.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: secret}, &found)
	switch {
	case apierrors.IsNotFound(err):
		return problem(fix, "vault %s: Secret %q is not in namespace %s", v.Name, secret, v1alpha1.SystemNamespace), nil
	case apierrors.IsForbidden(err):
		return unknown("Ask with a kubeconfig context that may read it.", "vault %s: you may not read Secret %q", v.Name, secret), nil
	case err != nil:
		return Finding{}, fmt.Errorf("reading Secret %q: %w", secret, err)
	}
	// The parser's error may quote a damaged key.
	if _, err := age.ParseIdentities(bytes.NewReader(found.Data[mover.KeyEntry])); err != nil {
		return problem(fix, "vault %s: Secret %q holds no key in its entry %q", v.Name, secret, mover.KeyEntry), nil
	}
	return ok("vault %s: Secret %q holds a key; %s", v.Name, secret, keepCopy), nil
}

// openedVault is a vault of the cluster, seen from here.
type openedVault struct {
	*vault.Opened
	err error
}

// openVaults opens the vaults of the cluster from here, with the Secrets that they name.
func (s *Subject) openVaults(ctx context.Context) (map[string]openedVault, error) {
	return s.opened.get(func() (map[string]openedVault, error) {
		vaults, err := s.allVaults(ctx)
		if err != nil {
			return nil, err
		}
		out := map[string]openedVault{}
		for i := range vaults {
			opened, err := vault.OpenNamed(ctx, s.Cluster, &vaults[i])
			out[vaults[i].Name] = openedVault{opened, err}
		}
		return out, nil
	})
}

func checkVaultsFromHere(ctx context.Context, s *Subject) ([]Finding, error) {
	vaults, err := s.allVaults(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := s.openVaults(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for i := range vaults {
		v := &vaults[i]
		switch err := opened[v.Name].err; {
		case err == nil:
			out = append(out, ok("vault %s opens from here, too", v.Name))
		case v.Spec.Filesystem != nil:
			out = append(out, warning("Keep a vault, or a copy of it, in an object store that a new cluster can reach.",
				"vault %s is a directory in the controller's pod: it cannot be reached from here, and must not be lost with the cluster", v.Name))
		case v.Spec.S3 != nil && v.Spec.S3.CredentialsSecretRef == nil:
			out = append(out, unknown("Put credentials into the environment (AWS_*), and ask: lockstep doctor --vault URL --key-file F",
				"vault %s uses the credentials of its pod, and does not open with those of here: %v", v.Name, err))
		default:
			out = append(out, notOpen("vault "+v.Name, err))
		}
	}
	return out, nil
}

// notOpen tells what a vault has proven from what is not known of it.
func notOpen(what string, err error) Finding {
	if errors.Is(err, volume.ErrWrongKey) || errors.Is(err, volume.ErrNoVault) {
		return problem(fault.HintOf(err), "%s: %v", what, err)
	}
	return unknown(fault.HintOf(err), "%s: %v", what, err)
}

package cmd

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
)

type installOptions struct {
	setup  setupOptions
	vault  vault.Flags
	export bool
}

func (p *Program) installCommand() *cobra.Command {
	var o installOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install Lockstep into the cluster, or upgrade it",
		Long: `Apply Lockstep's kinds, permissions and controller to the cluster, and wait until it runs. It may be run again, and with a
newer program it upgrades.

With --vault URL and --key-file, a Vault and its Secrets are made, too; the S3 credentials of the environment (AWS_*) are
copied into a Secret. What exists is not changed.

The admission policies that hold deploys of Flux until their restore point is complete are part of it; --without-gate leaves them
out, and removes those that are there. An API server before Kubernetes 1.30 does not know them: it is told, and they are left out.

With --export, the manifests are printed instead, for Git; Secrets are never printed.`,
		Example: `  lockstep install --image IMAGE --vault s3://acme-dr/prod?region=eu-west-1 --key-file vault.key
  lockstep install --image IMAGE --export > lockstep.yaml`,
		Args: cobra.NoArgs,
		RunE: runs(func(ctx context.Context, _ []string) error { return p.install(ctx, o) }),
	}
	o.setup.addFlags(cmd.Flags(), p.Image)
	o.vault.AddFlags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&o.setup.withoutGate, "without-gate", false, "leave out what holds deploys until their restore point is complete")
	cmd.Flags().BoolVar(&o.export, "export", false, "print the manifests instead of applying them")
	cmd.MarkFlagsMutuallyExclusive("export", "vault")
	return cmd
}

func (p *Program) install(ctx context.Context, o installOptions) error {
	if o.export {
		return p.exportManifests(o.setup)
	}
	o.vault.Complete(p.Getenv)
	if o.vault.Vault != "" && !vault.IsURL(o.vault.Vault) {
		return fault.New(fault.Usage, "Give its URL.", "--vault %q is not a URL", o.vault.Vault)
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	var opened *vault.Opened
	if o.vault.Vault != "" { // a wrong key or URL must show before anything is changed
		if opened, err = p.openByURL(ctx, o.vault); err != nil {
			return err
		}
	}
	if err := p.installObjects(ctx, c, o.setup); err != nil {
		return err
	}
	if opened == nil {
		_, err := fmt.Fprintln(p.Out, "Lockstep is installed. Next: a vault (lockstep vault init, lockstep install --vault) and a ProtectionPolicy.")
		return err
	}
	name, err := p.ensureVault(ctx, c, o.setup.vaultName, opened)
	if err != nil {
		return err
	}
	if err := p.waitForVault(ctx, c, name); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.Out, "Lockstep is installed, and Vault %s is ready.\n", name)
	return err
}

func (p *Program) exportManifests(o setupOptions) error {
	objects, err := p.manifests(o)
	if err != nil {
		return err
	}
	for _, u := range objects {
		data, err := yaml.Marshal(u)
		if err != nil {
			return fmt.Errorf("writing %s %s: %w", u.GetKind(), u.GetName(), err)
		}
		if _, err := io.WriteString(p.Out, "---\n"+string(data)); err != nil {
			return err
		}
	}
	return nil
}

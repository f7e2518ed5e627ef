package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

func (p *Program) vaultCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "vault", Short: "Make a vault, keep its keys, copy and repair it, list those of the cluster"}
	cmd.AddCommand(p.vaultInitCommand(), p.vaultListCommand(), p.vaultKeyCommand(), p.vaultRepairCommand(),
		p.vaultReindexCommand(), p.vaultCopyCommand())
	return cmd
}

type vaultInitOptions struct {
	keyFile string
	format  output.Format
}

func (o *vaultInitOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.keyFile, "key-file", "", "file with the key; made if it does not exist (default $"+vault.EnvKeyFile+")")
	o.format.AddFlag(cmd)
}

func (p *Program) vaultInitCommand() *cobra.Command {
	var o vaultInitOptions
	cmd := &cobra.Command{
		Use:   "init URL --key-file F",
		Short: "Make a new vault, and its key where the file does not exist",
		Long: `Make a new vault at URL and print its id.

URL is file:///path or s3://bucket/prefix?endpoint=https://host&region=name. Credentials for S3 come from the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, …). The bucket must exist.

The key is an age identity. If F does not exist, it is made with mode 0600. Whoever has the key can read the vault, and
without it nobody can: keep a copy in another place than the vault and the cluster.

A place that holds a vault already is left as it is, with exit code 5.`,
		Example: `  lockstep vault init s3://acme-dr/prod?region=eu-west-1 --key-file vault.key
  lockstep vault init file:///mnt/backup/vault --key-file vault.key`,
		Args: cobra.ExactArgs(1),
		RunE: runs(func(ctx context.Context, args []string) error { return p.vaultInit(ctx, args[0], o) }),
	}
	o.addFlags(cmd)
	return cmd
}

type vaultInitResult struct {
	ID      string `json:"id"`
	URL     string `json:"url"`
	KeyFile string `json:"keyFile"`
	NewKey  bool   `json:"newKey"`
}

func (p *Program) vaultInit(ctx context.Context, url string, o vaultInitOptions) error {
	flags := vault.Flags{KeyFile: o.keyFile}
	flags.Complete(p.Getenv)
	place, err := vault.NewPlace(ctx, url)
	if err != nil {
		return err
	}
	key, isNew, err := readOrCreateKey(flags.KeyFile)
	if err != nil {
		return err
	}
	v, err := place.Create(ctx, key)
	if err != nil && isNew {
		return withoutVault(err, key)
	}
	if err != nil {
		return err
	}
	p.warnExposed(key)
	r := vaultInitResult{ID: v.ID(), URL: url, KeyFile: key.Path, NewKey: isNew}
	return o.format.Print(p.Out, r, func(w io.Writer) error {
		fmt.Fprintf(w, "made vault %s at %s\n", r.ID, r.URL)
		if isNew {
			fmt.Fprintf(w, "made its key: %s\n", r.KeyFile)
		} else {
			fmt.Fprintf(w, "its key: %s\n", r.KeyFile)
		}
		_, err := fmt.Fprintln(w, "Without this key everything in the vault is lost: keep a copy away from the vault and the cluster.")
		return err
	})
}

func readOrCreateKey(path string) (key *vault.Key, isNew bool, err error) {
	if path != "" {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			key, err := vault.CreateKey(path)
			return key, true, err
		}
	}
	key, err = vault.ReadKey(path)
	return key, false, err
}

// withoutVault removes a new key only if it is certain that no vault was made with it.
func withoutVault(err error, key *vault.Key) error {
	if fault.CodeOf(err) == fault.Refused {
		return errors.Join(err, os.Remove(key.Path))
	}
	return &fault.Error{
		Code: fault.CodeOf(err), Err: err,
		Hint: strings.TrimSpace(fault.HintOf(err) + " The new key stays in " + key.Path + ": use it when you try again."),
	}
}

func (p *Program) warnExposed(key *vault.Key) {
	if key != nil && key.Exposed {
		p.note("warning: other users can read the key: chmod 600 %s", key.Path)
	}
}

func (p *Program) vaultListCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the vaults of the cluster",
		Args:  cobra.NoArgs,
		RunE:  runs(func(ctx context.Context, _ []string) error { return p.vaultList(ctx, format) }),
	}
	format.AddFlag(cmd)
	return cmd
}

type vaultView struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	ID      string `json:"id,omitempty"`
	Ready   string `json:"ready"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Points  int32  `json:"points"`
	// Immutability is what the Vault asks of its store.
	Immutability *v1alpha1.Immutability `json:"immutability,omitempty"`
	Checked      *metav1.Time           `json:"checked,omitempty"`
}

func viewVault(v *v1alpha1.Vault) vaultView {
	url, err := mover.URL(v.Spec)
	if err != nil {
		url = "-"
	}
	c := ready(v)
	return vaultView{
		Name: v.Name, URL: url, ID: v.Status.ID, Ready: string(c.Status), Reason: c.Reason, Message: c.Message,
		Points: v.Status.Points, Immutability: v.Spec.Immutability, Checked: v.Status.CheckedAt,
	}
}

func (p *Program) vaultList(ctx context.Context, format output.Format) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	var list v1alpha1.VaultList
	if err := c.List(ctx, &list); err != nil {
		return fmt.Errorf("listing the vaults: %w", err)
	}
	views := make([]vaultView, len(list.Items))
	rows := make([][]string, len(views))
	for i := range list.Items {
		v := viewVault(&list.Items[i])
		views[i] = v
		rows[i] = []string{v.Name, v.Ready, v.Reason, strconv.Itoa(int(v.Points)), output.Ago(p.Now(), moment(v.Checked)), v.URL}
	}
	return format.Print(p.Out, views, func(w io.Writer) error {
		return output.Rows(w, []string{"NAME", "READY", "REASON", "POINTS", "CHECKED", "URL"}, rows)
	})
}

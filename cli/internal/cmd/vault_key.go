package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func (p *Program) vaultKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, add, remove and rotate the keys of a vault",
		Long: `List, add, remove and rotate the keys of a vault. A vault has one master key, which is wrapped for each of its keys: adding or removing
one rewrites no data.

Removing a key takes nothing from somebody who has opened the vault with it before. If a key was stolen, make a new vault and save
into that.`,
	}
	cmd.AddCommand(p.keyListCommand(), p.keyAddCommand(), p.keyRemoveCommand(), p.keyRotateCommand(), p.keyExportCommand())
	return cmd
}

func (p *Program) keyListCommand() *cobra.Command {
	var flags vault.Flags
	var format output.Format
	cmd := &cobra.Command{
		Use: "list", Short: "List the keys of a vault", Args: cobra.NoArgs,
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error {
			keys, err := v.Keys(ctx)
			if err != nil {
				return err
			}
			return format.Print(p.Out, keys, func(w io.Writer) error {
				rows := make([][]string, len(keys))
				for i, k := range keys {
					rows[i] = []string{k.ID, output.Ago(p.Now(), k.Created), dash(k.Recipient), dash(k.Comment)}
				}
				return output.Rows(w, []string{"ID", "ADDED", "RECIPIENT", "COMMENT"}, rows)
			})
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	format.AddFlag(cmd)
	return cmd
}

// newKeyFlags say whom a new key is for.
type newKeyFlags struct {
	recipient, file, comment string
}

func (n *newKeyFlags) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&n.recipient, "recipient", "", "public key (age1…) of whom the new key is for")
	f.StringVar(&n.file, "new-key-file", "", "file with the new key; made if it does not exist")
	f.StringVar(&n.comment, "comment", "", "what to keep with the key, for people")
	cmd.MarkFlagsMutuallyExclusive("recipient", "new-key-file")
	cmd.MarkFlagsOneRequired("recipient", "new-key-file")
}

// add adds the keys to the vault.
func (n *newKeyFlags) add(ctx context.Context, v *vault.Opened) ([]volume.Key, error) {
	recipients, err := n.recipients()
	if err != nil {
		return nil, err
	}
	var added []volume.Key
	for _, r := range recipients {
		k, err := v.AddKey(ctx, r, fmt.Sprint(r), n.comment)
		if err != nil {
			return nil, err
		}
		added = append(added, k)
	}
	return added, nil
}

func (n *newKeyFlags) recipients() ([]age.Recipient, error) {
	if n.file != "" {
		key, _, err := readOrCreateKey(n.file)
		if err != nil {
			return nil, err
		}
		return key.Recipients()
	}
	recipients, err := age.ParseRecipients(strings.NewReader(n.recipient))
	if err != nil {
		if strings.HasPrefix(n.recipient, "AGE-SECRET-KEY-") { // never repeated in an error
			err = errors.New("that is a secret key")
		}
		return nil, fault.New(fault.Usage, "A recipient begins with age1.", "recipient: %w", err)
	}
	return recipients, nil
}

func (p *Program) keyAddCommand() *cobra.Command {
	var flags vault.Flags
	var n newKeyFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Let one more key open a vault",
		Example: `  lockstep vault key add --recipient age1… --comment 'offline, in the safe'
  lockstep vault key add --new-key-file second.key`,
		Args: cobra.NoArgs,
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error {
			added, err := n.add(ctx, v)
			if err != nil {
				return err
			}
			return format.Print(p.Out, added, func(w io.Writer) error {
				for _, k := range added {
					fmt.Fprintf(w, "added key %s for %s\n", k.ID, k.Recipient)
				}
				return nil
			})
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	n.addFlags(cmd)
	format.AddFlag(cmd)
	return cmd
}

func (p *Program) keyRemoveCommand() *cobra.Command {
	var flags vault.Flags
	cmd := &cobra.Command{
		Use:   "remove ID...",
		Short: "Let keys not open a vault any more",
		Long: `Let keys not open a vault any more. The last one is never removed. Who has opened the vault with a key before can still read it, if
they can still read the store.`,
		Args: cobra.MinimumNArgs(1),
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, args []string) error {
			for _, id := range args {
				if err := v.RemoveKey(ctx, id); err != nil {
					return err
				}
				fmt.Fprintf(p.Out, "removed key %s\n", id)
			}
			return nil
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	return cmd
}

func (p *Program) keyRotateCommand() *cobra.Command {
	var flags vault.Flags
	var n newKeyFlags
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Add a new key and remove all others",
		Long: `Add a new key and remove all others, in this order: if it is interrupted, the vault opens with the old keys or with both. Run it again with the
new key to finish.`,
		Example: `  lockstep vault key rotate --key-file vault.key --new-key-file vault-2027.key`,
		Args:    cobra.NoArgs,
		RunE:    p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error { return p.keyRotate(ctx, v, n) }),
	}
	flags.AddFlags(cmd.Flags(), true)
	n.addFlags(cmd)
	return cmd
}

func (p *Program) keyRotate(ctx context.Context, v *vault.Opened, n newKeyFlags) error {
	added, err := n.add(ctx, v)
	if err != nil {
		return err
	}
	fresh := map[string]bool{}
	for _, k := range added {
		fresh[k.ID] = true
		fmt.Fprintf(p.Out, "added key %s for %s\n", k.ID, k.Recipient)
	}
	keys, err := v.Keys(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if fresh[k.ID] {
			continue
		}
		if err := v.RemoveKey(ctx, k.ID); err != nil {
			return err
		}
		fmt.Fprintf(p.Out, "removed key %s\n", k.ID)
	}
	return nil
}

func (p *Program) keyExportCommand() *cobra.Command {
	var flags vault.Flags
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write what 'volume save --write-only' needs to the standard output",
		Long: `Write what 'lockstep volume save --write-only' needs to the standard output: the vault's configuration and its wrapped keys. It is no secret, but
whoever can replace it can have data encrypted for themselves.

With it and a key a machine saves although its credentials for the store allow it to write objects and nothing else: whoever takes
over that machine can neither read, nor overwrite, nor delete what was saved.`,
		Example: `  lockstep vault key export --key-file vault.key > vault.bootstrap`,
		Args:    cobra.NoArgs,
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error {
			data, err := v.Bootstrap(ctx)
			if err != nil {
				return err
			}
			_, err = p.Out.Write(append(data, '\n'))
			return err
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	return cmd
}

// Vaultreader reads a Vault in a directory with nothing of Lockstep: see package reader.
//
//	vaultreader check   DIR --key-file FILE [-o json]
//	vaultreader list    DIR --key-file FILE
//	vaultreader extract DIR --key-file FILE SNAPSHOT DEST
//
// FILE has age identities, one in a line.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/test/reader"
)

const usage = "usage: vaultreader check|list|extract DIR --key-file FILE [-o json] [SNAPSHOT DEST]"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vaultreader:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) < 2 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("vaultreader", flag.ContinueOnError)
	keyFile := flags.String("key-file", "", "a file of age identities")
	output := flags.String("o", "", "json: print the whole report of a check")
	if err := flags.Parse(args[2:]); err != nil {
		return err
	}
	identities, err := readIdentities(*keyFile)
	if err != nil {
		return err
	}
	switch dir := args[1]; {
	case args[0] == "check" && flags.NArg() == 0:
		return check(dir, identities, *output, out)
	case args[0] == "list" && flags.NArg() == 0:
		return list(dir, identities, out)
	case args[0] == "extract" && flags.NArg() == 2:
		return extract(dir, identities, flags.Arg(0), flags.Arg(1))
	}
	return errors.New(usage)
}

func readIdentities(name string) ([]age.Identity, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	defer f.Close()
	return age.ParseIdentities(f)
}

func check(dir string, identities []age.Identity, output string, out io.Writer) error {
	report, err := reader.Check(dir, identities...)
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return errors.Join(err, encoder.Encode(report))
	}
	fmt.Fprintf(out, "vault %s of %s\n", report.Vault, report.Created)
	fmt.Fprintf(out, "%d keys, %d for others, %d of other vaults\n", report.Keys, report.SealedKeys, report.ForeignKeys)
	fmt.Fprintf(out, "%d packs of %d bytes with %d chunks; %d packs condemned, %d without index, %d without need\n",
		report.Packs, report.PackBytes, report.Chunks, report.Condemned, report.NoIndex, report.Needless)
	fmt.Fprintf(out, "%d indexes, which describe %d packs that are gone; %d documents\n", report.Indexes, report.NoPack, report.Documents)
	for _, name := range report.Unknown {
		fmt.Fprintf(out, "not of the vault: %s\n", name)
	}
	for _, s := range report.Snapshots {
		fmt.Fprintf(out, "snapshot %s: %d entries, %d files of %d bytes verified, %d hurt, %d changed, %d unread\n",
			s.ID, s.Entries, s.Files, s.Bytes, len(s.Hurt), s.Changed, s.Unread)
	}
	return err
}

func list(dir string, identities []age.Identity, out io.Writer) error {
	v, err := reader.Open(os.DirFS(dir), identities...)
	if err != nil {
		return err
	}
	snapshots, err := v.Snapshots()
	for _, s := range snapshots {
		labels, _ := json.Marshal(s.Labels)
		fmt.Fprintf(out, "%s %s content %s meta %s labels %s\n", s.ID, s.Created, s.Content, s.Meta, labels)
	}
	return err
}

// extract takes the snapshot whose id begins with prefix.
func extract(dir string, identities []age.Identity, prefix, dest string) error {
	v, err := reader.Open(os.DirFS(dir), identities...)
	if err != nil {
		return err
	}
	snapshots, err := v.Snapshots()
	if err != nil {
		return err
	}
	var found []*reader.Snapshot
	for _, s := range snapshots {
		if strings.HasPrefix(s.ID, prefix) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d snapshots have an id that begins with %q", len(found), prefix)
	}
	if err := os.MkdirAll(dest, 0o700); err != nil {
		return err
	}
	return v.Extract(found[0], dest)
}

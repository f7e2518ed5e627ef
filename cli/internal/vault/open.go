// Package vault finds and opens the vault that a command is about: by its URL and a key file, with no cluster, or by
// the name of a Vault in a cluster, with the Secrets that it names.
package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/store/cached"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Environment variables that stand in for flags.
const (
	EnvVault   = "LOCKSTEP_VAULT"
	EnvKeyFile = "LOCKSTEP_KEY_FILE"
	EnvCache   = "LOCKSTEP_CACHE"
)

const (
	// noCache is the value of --cache that keeps nothing.
	noCache = "none"
	// cacheLimit bounds the copies of a vault's small objects, in bytes.
	cacheLimit = 1 << 30
)

// Flags say which vault, and with which key.
type Flags struct {
	Vault   string
	KeyFile string
	// Cache is where copies of a vault's small objects are kept; empty is a directory of the user, for vaults that are not files.
	Cache string
}

// AddFlags adds --vault and --key-file to a set. Where the command works with no cluster, only a URL will do.
func (f *Flags) AddFlags(fs *pflag.FlagSet, urlOnly bool) {
	what := "the vault: its URL (file:///path, s3://bucket/prefix?endpoint=…&region=…&lock=governance:30d), or the name of a Vault in the cluster"
	if urlOnly {
		what = "URL of the vault: file:///path or s3://bucket/prefix?endpoint=…&region=…&lock=governance:30d"
	}
	fs.StringVar(&f.Vault, "vault", "", what+" (default $"+EnvVault+")")
	fs.StringVar(&f.Cache, "cache", "", "directory for copies of small objects of a vault in S3, sealed as they are, or none (default $"+EnvCache+", or the user's cache directory)")
	fs.StringVar(&f.KeyFile, "key-file", "", "file with the key of a vault that is named by its URL (default $"+EnvKeyFile+")")
}

// Complete fills in from the environment what no flag says.
func (f *Flags) Complete(getenv func(string) string) {
	if f.Vault == "" {
		f.Vault = getenv(EnvVault)
	}
	if f.KeyFile == "" {
		f.KeyFile = getenv(EnvKeyFile)
	}
	if f.Cache == "" {
		f.Cache = getenv(EnvCache)
	}
}

// Opened is an open vault.
type Opened struct {
	*volume.Vault
	// Name is that of the Vault in the cluster, empty for a vault that was named by its URL.
	Name string
	URL  string
	// Key is set for a vault that was named by its URL.
	Key *Key
}

// Open opens the vault that the flags name. Where they name none, it is the only one of the cluster.
func (f *Flags) Open(ctx context.Context, connect func() (*kube.Cluster, error)) (*Opened, error) {
	if IsURL(f.Vault) {
		return f.OpenURL(ctx)
	}
	if f.KeyFile != "" && f.Vault != "" {
		return nil, fault.New(fault.Usage, "Give the vault's URL with --vault, or leave --key-file out.",
			"a key file was given for %q, which is the name of a Vault in the cluster and has its own key", f.Vault)
	}
	c, err := connect()
	if err != nil {
		return nil, err
	}
	v, err := Find(ctx, c, f.Vault)
	if err != nil {
		return nil, err
	}
	return OpenNamed(ctx, c, v)
}

// OpenURL opens a vault that is named by its URL, with a key file and with the store's credentials from the environment.
func (f *Flags) OpenURL(ctx context.Context) (*Opened, error) {
	return f.openURL(ctx, func(s store.Store, key *Key) (*volume.Vault, error) { return volume.Open(ctx, s, key.Identities...) })
}

// OpenBootstrap opens a vault as OpenURL does, but without a request to its store.
func (f *Flags) OpenBootstrap(ctx context.Context, bootstrap []byte) (*Opened, error) {
	return f.openURL(ctx, func(s store.Store, key *Key) (*volume.Vault, error) {
		return volume.OpenBootstrap(s, bootstrap, key.Identities...)
	})
}

func (f *Flags) openURL(ctx context.Context, open func(store.Store, *Key) (*volume.Vault, error)) (*Opened, error) {
	if !IsURL(f.Vault) {
		return nil, badURL(fmt.Sprintf("is %q", f.Vault))
	}
	key, err := ReadKey(f.KeyFile)
	if err != nil {
		return nil, err
	}
	s, err := backend.Open(ctx, f.Vault, backend.Credentials{})
	if err != nil {
		return nil, placeError(err)
	}
	v, err := open(f.cached(s), key)
	if err != nil {
		return nil, Explain(err)
	}
	return &Opened{Vault: v, URL: f.Vault, Key: key}, nil
}

// cached puts the cache in front of a store.
func (f *Flags) cached(s store.Store) store.Store {
	dir := f.Cache
	if dir == "" && strings.HasPrefix(f.Vault, "file:") || dir == noCache {
		return s
	}
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return s // a user without a home does without
		}
		dir = filepath.Join(user, "lockstep")
	}
	sum := sha256.Sum256([]byte(f.Vault))
	return cached.New(s, filepath.Join(dir, hex.EncodeToString(sum[:8])), cacheLimit, "index/", "snapshots/", "documents/")
}

// Find gets a Vault from the cluster; without a name there must be exactly one.
func Find(ctx context.Context, c client.Client, name string) (*v1alpha1.Vault, error) {
	var list v1alpha1.VaultList
	if err := c.List(ctx, &list); err != nil {
		return nil, kube.Explain(fmt.Errorf("listing the vaults of the cluster: %w", err))
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	slices.Sort(names)
	switch {
	case name == "" && len(list.Items) == 1:
		return &list.Items[0], nil
	case len(list.Items) == 0:
		return nil, fault.New(fault.Usage, "Name it by its URL: --vault URL --key-file F.", "the cluster has no Vault")
	case name == "":
		return nil, fault.New(fault.Usage, "Choose one with --vault: "+strings.Join(names, ", "), "the cluster has %d Vaults", len(names))
	}
	if i := slices.IndexFunc(list.Items, func(v v1alpha1.Vault) bool { return v.Name == name }); i >= 0 {
		return &list.Items[i], nil
	}
	return nil, fault.New(fault.Usage, "There are: "+strings.Join(names, ", "), "the cluster has no Vault %q", name)
}

// OpenNamed opens a Vault of the cluster with its Secrets.
func OpenNamed(ctx context.Context, c client.Client, v *v1alpha1.Vault) (*Opened, error) {
	rawURL, err := mover.URL(v.Spec)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "vault %q: %w", v.Name, err)
	}
	var credentials backend.Credentials
	if s3 := v.Spec.S3; s3 != nil && s3.CredentialsSecretRef != nil {
		data, err := secret(ctx, c, v.Name, s3.CredentialsSecretRef.Name)
		if err != nil {
			return nil, err
		}
		credentials = backend.Credentials{
			AccessKeyID: string(data[mover.AccessKeyIDEntry]), SecretAccessKey: string(data[mover.SecretAccessKeyEntry]),
			SessionToken: string(data[mover.SessionTokenEntry]), CACert: data[mover.CAEntry],
		}
	}
	data, err := secret(ctx, c, v.Name, v.Spec.KeySecretRef.Name)
	if err != nil {
		return nil, err
	}
	identities, err := age.ParseIdentities(bytes.NewReader(data[mover.KeyEntry]))
	if err != nil {
		// The parser's error may quote a damaged key.
		return nil, fault.New(fault.Unknown, "", "vault %q: Secret %q holds no key", v.Name, v.Spec.KeySecretRef.Name)
	}
	opened, err := open(ctx, rawURL, credentials, identities)
	if err != nil {
		return nil, named(err, v)
	}
	if v.Status.ID != "" && v.Status.ID != opened.ID() {
		return nil, fault.New(fault.Unknown, "Name the vault by its URL as this machine sees it: --vault URL --key-file F.",
			"vault %q: %s is another vault here than in the cluster", v.Name, rawURL)
	}
	return &Opened{Vault: opened, Name: v.Name, URL: rawURL}, nil
}

// named says in an error which Vault it is about, and what may be different for the controller.
func named(err error, v *v1alpha1.Vault) error {
	hint := fault.HintOf(err)
	if v.Spec.Filesystem != nil {
		hint = "This vault is a directory in the controller's pod. Where this machine can see it, too, name it by its URL: --vault URL --key-file F."
	}
	return &fault.Error{Code: fault.CodeOf(err), Hint: hint, Err: fmt.Errorf("vault %q: %w", v.Name, err)}
}

func secret(ctx context.Context, c client.Client, vault, name string) (map[string][]byte, error) {
	var s corev1.Secret
	err := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: name}, &s)
	if apierrors.IsNotFound(err) {
		return nil, fault.New(fault.Unknown, "", "vault %q: Secret %q does not exist in namespace %s", vault, name, v1alpha1.SystemNamespace)
	}
	if err != nil {
		return nil, kube.Explain(fmt.Errorf("vault %q: reading Secret %q: %w", vault, name, err))
	}
	return s.Data, nil
}

func open(ctx context.Context, rawURL string, c backend.Credentials, identities []age.Identity) (*volume.Vault, error) {
	s, err := backend.Open(ctx, rawURL, c)
	if err != nil {
		return nil, placeError(err)
	}
	v, err := volume.Open(ctx, s, identities...)
	if err != nil {
		return nil, Explain(err)
	}
	return v, nil
}

// placeError tells a URL that means nothing from a store that could not be asked.
func placeError(err error) error {
	explained := Explain(fmt.Errorf("opening the vault: %w", err))
	if fault.CodeOf(explained) == fault.Failed {
		return &fault.Error{Code: fault.Usage, Err: explained}
	}
	return explained
}

// Place is where a new vault can be made.
type Place struct{ store store.Store }

// NewPlace opens the store that a URL names. The directory of a file URL is made, a bucket must exist.
func NewPlace(ctx context.Context, rawURL string) (*Place, error) {
	s, err := backend.Create(ctx, rawURL, backend.Credentials{})
	if err != nil {
		return nil, placeError(err)
	}
	return &Place{s}, nil
}

// Create makes a vault that opens with the key.
func (p *Place) Create(ctx context.Context, key *Key) (*volume.Vault, error) {
	recipients, err := key.Recipients()
	if err != nil {
		return nil, err
	}
	v, err := volume.Create(ctx, p.store, recipients...)
	return v, Explain(err)
}

// Explain gives an error of a store or a vault its exit code and hint. It leaves others as they are.
func Explain(err error) error {
	var already *fault.Error
	var files *volume.FileErrors
	switch {
	case err == nil, errors.As(err, &already):
		return err
	case errors.Is(err, volume.ErrVaultExists):
		return fault.New(fault.Refused, "Use it with the key it was made with, or give another URL.", "%w", err)
	case errors.Is(err, volume.ErrWrongKey):
		return fault.New(fault.Unknown, "Give the key file that was made with this vault.", "%w", err)
	case errors.Is(err, volume.ErrNoVault):
		return fault.New(fault.Unknown, "Check the URL; a new vault is made by: lockstep vault init URL --key-file F", "%w", err)
	case errors.Is(err, volume.ErrNotEmpty):
		return fault.New(fault.Refused, "Give an empty directory, or allow more with --overwrite or --mirror.", "%w", err)
	case errors.Is(err, volume.ErrLastKey):
		return fault.New(fault.Refused, "Add another key first: lockstep vault key add", "%w", err)
	case errors.Is(err, volume.ErrOvertaken):
		return fault.New(fault.Failed, "Run it again: what is durable is not stored again.", "%w", err)
	case errors.Is(err, volume.ErrSnapshotNotFound), errors.Is(err, volume.ErrDocumentNotFound), errors.Is(err, volume.ErrPathNotFound),
		errors.Is(err, volume.ErrKeyNotFound), errors.Is(err, catalog.ErrPointNotFound):
		return fault.New(fault.Absent, "", "%w", err)
	case errors.As(err, &files):
		return fault.New(fault.Failed, "", "%w", err)
	case errors.Is(err, store.ErrDenied):
		return fault.New(fault.Unknown, "Check the credentials (AWS_* in the environment, or the Secret of the Vault) and what they may do.", "%w", err)
	case errors.Is(err, store.ErrUnavailable):
		return fault.New(fault.Unknown, "Check the URL and the network. Nothing follows from this about what the vault holds.", "%w", err)
	case errors.Is(err, volume.ErrDamaged):
		return fault.New(fault.Unknown, "Nothing is read around damage: see docs/vault-format.md.", "%w", err)
	default:
		return err
	}
}

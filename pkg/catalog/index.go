package catalog

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// The index is a tree of names, so that a question reads what leads to its answer and nothing else. The names below one node
// are documents of one kind without data, and the kind is the keyed hash of the way to the node. A point is on several ways:
//
//	"commit <commit>"      / place / application / month / day / moment and ID
//	"tree <tree>"          / place / application / month / day / moment and ID
//	"repository <address>" / place / application / month / day / moment and ID
//	"application <name>"   / place / application / month / day / moment and ID
//	"id" / its month / its day / its hour / ID
//
// All of it is written before the record: a record implies its names, and a name whose record does not exist is of a point that was
// never finished.
const (
	// indexKind holds what the index needs as a whole.
	indexKind = "point-index"
	// secretName is the document with the secret of the kinds, startedName one with the same content that is written when
	// every record of the vault is in the index.
	secretName, startedName = "secret", "started"
	// nodeKind is how the kinds of nodes begin.
	nodeKind = "point-"
	// stamp gives moments the order of time when sorted as text. The first 7 and the first 10 bytes are month and day.
	stamp                  = "2006-01-02T15:04:05.000000000Z"
	month, day             = len("2006-01"), len("2006-01-02")
	parallel               = 8
	secretLength           = 32
	idMonth, idDay, idHour = len("200601"), len("20060102"), len("20060102-15")
)

// index is the index of one vault.
type index struct {
	vault  *volume.Vault
	secret []byte
}

// openIndex returns nil for a vault whose index was never completed: its records are all there is to go by.
func openIndex(ctx context.Context, v *volume.Vault) (*index, error) {
	d, err := v.Document(ctx, indexKind, startedName)
	if errors.Is(err, volume.ErrDocumentNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return newIndex(v, d.Data)
}

func newIndex(v *volume.Vault, secret []byte) (*index, error) {
	if len(secret) != secretLength {
		return nil, fmt.Errorf("the index's secret has %d bytes: %w", len(secret), volume.ErrDamaged)
	}
	return &index{v, secret}, nil
}

// startIndex returns the index, which it completes first where it never was.
func startIndex(ctx context.Context, v *volume.Vault) (*index, error) {
	x, err := openIndex(ctx, v)
	if err != nil || x != nil {
		return x, err
	}
	if _, err := Reindex(ctx, v, ReindexOptions{}); err != nil {
		return nil, err
	}
	return openIndex(ctx, v)
}

// name is one document of the index.
type name struct{ kind, name string }

// kind is where the names below a node are. The hash is keyed, so that nobody without the vault's key can ask the store whether
// some commit was ever saved.
func (x *index) kind(way ...string) string {
	h := hmac.New(sha256.New, x.secret)
	for _, step := range way {
		h.Write(binary.AppendUvarint(nil, uint64(len(step))))
		h.Write([]byte(step))
	}
	return nodeKind + hex.EncodeToString(h.Sum(nil)[:16])
}

// below returns the names below a node, sorted. That there are none is proven.
func (x *index) below(ctx context.Context, way ...string) ([]string, error) {
	documents, err := x.vault.Documents(ctx, x.kind(way...), "")
	if err != nil {
		return nil, fmt.Errorf("asking the index of restore points: %w", err)
	}
	names := make([]string, 0, len(documents))
	for _, d := range documents {
		names = append(names, d.Name)
	}
	return names, nil
}

// ways returns every way on which a record is found.
func ways(r point.Record) [][]string {
	place, taken := placeOf(r.Revision.Repository, r.Revision.Path), stampOf(r.Taken)
	rest := []string{place, r.Application, taken[:month], taken[:day], taken + " " + r.ID}
	all := [][]string{{byID, head(r.ID, idMonth), head(r.ID, idDay), head(r.ID, idHour), r.ID}}
	for _, root := range []string{
		byCommit(r.Revision.Commit), byTree(r.Revision.Tree), byRepository(r.Revision.Repository), byApplication(r.Application),
	} {
		all = append(all, append([]string{root}, rest...))
	}
	return all
}

const (
	byID = "id"
	// idSteps is the length of a way by ID.
	idSteps = len([...]string{byID, "month", "day", "hour", "ID"})
)

func byCommit(commit string) string   { return "commit " + commit }
func byTree(tree string) string       { return "tree " + tree }
func byApplication(app string) string { return "application " + app }
func byRepository(url string) string  { return "repository " + revision.NormalizeURL(url) }

// placeOf is a directory of a repository as one word of ASCII, whatever bytes the two have.
func placeOf(repository, path string) string {
	return fmt.Sprintf("%+q %+q", revision.NormalizeURL(repository), revision.CleanPath(path))
}

func stampOf(t time.Time) string { return t.UTC().Format(stamp) }

func head(s string, n int) string { return s[:min(n, len(s))] }

// each calls do for 0 to n-1, several at once, until the first error.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range n {
		if group.Err() != nil {
			break
		}
		g.Go(func() error { return do(group, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

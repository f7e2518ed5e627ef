package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// dataset is a directory that is made once and kept.
type dataset struct {
	name string
	what string
	// make fills an empty directory; made is where the datasets before it are.
	make func(ctx context.Context, dir, made string) error
	// pick says what an edit alters.
	pick func(dir string, r *rand.Rand) ([]change, error)
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// Datasets, in the order they are made.
func datasets() []dataset {
	return []dataset{
		{"pg", "directory of a PostgreSQL server, filled by pgbench", makePostgres, pickPages("data/base")},
		{"small", "100,000 small files in 1,000 directories", smallFiles(100_000, 10_700), pickFiles},
		{"media", "incompressible files of 5 to 200 MB", makeMedia(gib), pickPages("")},
		{"mix", "a bit of each of the others, and log files", makeMix, pickPages("")},
		{"image", "4 GiB image of an ext4 file system, partly holes", makeImage, pickPages("")},
	}
}

// prepared makes the dataset unless it is there, in a process of its own: Linux counts the highest peak of the process that
// starts another in that one's peak.
func (d dataset) prepared(ctx context.Context, self, data string) (string, error) {
	cmd := exec.CommandContext(ctx, self, "-mode", modeMake, "-data", data, d.name)
	cmd.Stderr = os.Stderr
	// It must be able to stop its database.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("making dataset %s: %w", d.name, errors.Join(context.Cause(ctx), err))
	}
	return filepath.Join(data, d.name), nil
}

// makeDataset is that process.
func makeDataset(ctx context.Context, data, name string) error {
	for _, d := range append(datasets(), manyFiles()) {
		if d.name == name {
			_, err := d.prepare(ctx, data)
			return err
		}
	}
	return fmt.Errorf("no dataset %q", name)
}

// prepare makes the dataset unless it is there, and returns its directory.
func (d dataset) prepare(ctx context.Context, data string) (string, error) {
	dir := filepath.Join(data, d.name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	progress("making %s: %s", d.name, d.what)
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", err
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return "", err
	}
	if err := d.make(ctx, partial, data); err != nil {
		return "", fmt.Errorf("making dataset %s: %w", d.name, err)
	}
	return dir, os.Rename(partial, dir)
}

// makePostgres makes a database of pgbench, works in it, and stops the server in good order.
func makePostgres(ctx context.Context, dir, _ string) error {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	pg := postgres{bin: bin, dir: filepath.Join(dir, "data"), socket: dir}
	if os.Geteuid() == 0 {
		// PostgreSQL refuses to run as root.
		if err := exec.CommandContext(ctx, "chown", "postgres:", dir).Run(); err != nil {
			return fmt.Errorf("giving %s to postgres: %w", dir, err)
		}
		pg.as = []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"}
	}
	if err := pg.run(ctx, "initdb", "-D", pg.dir, "-U", "bench", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"); err != nil {
		return err
	}
	// Sockets only; about 600 MB of WAL stay.
	options := fmt.Sprintf("-c listen_addresses= -k %s -c fsync=off -c shared_buffers=512MB -c min_wal_size=512MB -c max_wal_size=768MB -c autovacuum=off", pg.socket)
	if err := pg.run(ctx, "pg_ctl", "-D", pg.dir, "-o", options, "-l", filepath.Join(dir, "log"), "-w", "start"); err != nil {
		return err
	}
	var workErr error
	for _, step := range [][]string{
		{"pgbench", "-q", "-i", "-s", "50"},
		{"psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", events},
		{"pgbench", "-n", "-c", "4", "-j", "2", "-t", "12500", "--random-seed=1"},
	} {
		if workErr = pg.run(ctx, step[0], append(step[1:], "-h", pg.socket, "-U", "bench", "postgres")...); workErr != nil {
			break
		}
	}
	// Whatever became of it, no server may stay.
	return errors.Join(workErr, pg.run(context.WithoutCancel(ctx), "pg_ctl", "-D", pg.dir, "-m", "fast", "-w", "stop"))
}

// events is a table as applications have them: the rows of pgbench alone are nearly all spaces, which compress as no real
// data does.
const events = `
CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz, customer uuid, payload text);
SELECT setseed(0.5);
INSERT INTO events SELECT i, timestamptz '2026-01-01 00:00:00Z' + i * interval '1.7 seconds', md5(random()::text)::uuid,
	format('{"order":%s,"status":"%s","amount":%s,"currency":"EUR","token":"%s","note":"%s"}', i, (array['new','paid','sent','returned'])[1 + floor(random() * 4)],
		round((random() * 900)::numeric, 2), md5(random()::text), repeat(left(md5((i % 5000)::text), 12) || ' ', 1 + (i % 5)::int))
	FROM generate_series(1, 2200000) AS i;
CREATE INDEX ON events (customer);
CHECKPOINT;
`

type postgres struct {
	bin, dir, socket string
	as               []string
}

func (p postgres) run(ctx context.Context, program string, args ...string) error {
	all := append(append([]string{}, p.as...), filepath.Join(p.bin, program))
	cmd := exec.CommandContext(ctx, all[0], append(all[1:], args...)...)
	cmd.Dir = "/"
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w: %s", program, err, lastLines(out.String(), 5))
	}
	return nil
}

func postgresBin() (string, error) {
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed")
	}
	return found[len(found)-1], nil
}

// smallFiles makes n files of log-normal sizes with this mean: of every ten, seven are text and three binary.
func smallFiles(n int, mean float64) func(ctx context.Context, dir, made string) error {
	return func(ctx context.Context, dir, _ string) error {
		const sigma = 1.5
		mu := math.Log(mean) - sigma*sigma/2
		r := rand.New(rand.NewPCG(1, uint64(n)))
		words := vocabulary(r)
		var buf []byte
		for i := range n {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			sub := filepath.Join(dir, fmt.Sprintf("d%02d", i%1000/32), fmt.Sprintf("s%02d", i%1000%32))
			if i < 1000 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return err
				}
			}
			size := int(min(math.Exp(mu+sigma*r.NormFloat64()), 8*mib))
			name := fmt.Sprintf("f%06d.txt", i)
			if i%10 < 7 {
				buf = text(buf[:0], r, words, size)
			} else {
				name, buf = fmt.Sprintf("f%06d.bin", i), records(buf[:0], r, size)
			}
			if err := os.WriteFile(filepath.Join(sub, name), buf, 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

func vocabulary(r *rand.Rand) []string {
	words := make([]string, 4096)
	for i := range words {
		word := make([]byte, 2+r.IntN(9))
		for j := range word {
			word[j] = byte('a' + r.IntN(26))
		}
		words[i] = string(word)
	}
	return words
}

// text appends lines of a skewed choice of words and some numbers: it compresses about as logs and sources do.
func text(buf []byte, r *rand.Rand, words []string, size int) []byte {
	for col := 0; len(buf) < size; col++ {
		u := r.Float64()
		buf = append(buf, words[int(u*u*u*float64(len(words)))]...)
		switch col % 12 {
		case 11:
			buf = append(buf, '\n')
		case 5:
			buf = fmt.Appendf(buf, "=%d ", r.IntN(1_000_000))
		default:
			buf = append(buf, ' ')
		}
	}
	return buf[:size]
}

// records appends what binary formats are made of: a part that grows slowly, a part that is random, and zeros.
func records(buf []byte, r *rand.Rand, size int) []byte {
	for n := uint32(0); len(buf) < size; n++ {
		buf = append(buf, byte(n), byte(n>>8), 0, 0, 0, 0, 0, 1)
		for range 3 {
			buf = binaryAppend(buf, r.Uint64())
		}
		buf = append(buf, make([]byte, 16)...)
	}
	return buf[:size]
}

func binaryAppend(buf []byte, v uint64) []byte {
	for range 8 {
		buf = append(buf, byte(v))
		v >>= 8
	}
	return buf
}

// makeMedia makes this many bytes that nothing can compress.
func makeMedia(total int64) func(ctx context.Context, dir, made string) error {
	return func(ctx context.Context, dir, _ string) error {
		noise := rand.NewChaCha8([32]byte{'m', 'e', 'd', 'i', 'a', byte(total >> 20)})
		r := rand.New(noise)
		for i := 0; total > 0; i++ {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			size := min(total, 5*mib+r.Int64N(195*mib))
			if err := writeFrom(filepath.Join(dir, fmt.Sprintf("clip%02d.mp4", i)), io.LimitReader(noise, size)); err != nil {
				return err
			}
			total -= size
		}
		return nil
	}
}

func writeFrom(path string, from io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	return f.Close()
}

// makeMix makes about 1.2 GB of what one volume of an application may hold together.
func makeMix(ctx context.Context, dir, made string) error {
	parts := []struct {
		name string
		make func(ctx context.Context, dir, made string) error
	}{
		{"files", smallFiles(20_000, 10_700)},
		{"media", makeMedia(256 * mib)},
		{"logs", makeLogs},
		{"db", makeDatabaseFiles},
	}
	for _, p := range parts {
		sub := filepath.Join(dir, p.name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
		if err := p.make(ctx, sub, made); err != nil {
			return fmt.Errorf("making %s: %w", p.name, err)
		}
	}
	return nil
}

func makeLogs(ctx context.Context, dir, _ string) error {
	r := rand.New(rand.NewPCG(2, 0))
	words := vocabulary(r)
	var buf []byte
	for i := range 4 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		buf = text(buf[:0], r, words, 64*mib)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("app.log.%d", i)), buf, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeDatabaseFiles copies the first 400 MB of the tables of the PostgreSQL dataset.
func makeDatabaseFiles(_ context.Context, dir, made string) error {
	left := int64(400 * mib)
	err := walkFiles(filepath.Join(made, "pg", "data", "base"), func(path string, size int64) error {
		if left <= 0 || size == 0 {
			return nil
		}
		left -= size
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return writeFrom(filepath.Join(dir, filepath.Base(filepath.Dir(path))+"."+filepath.Base(path)), f)
	})
	if err == nil && left > 0 {
		return errors.New("the PostgreSQL dataset holds less than 400 MB of tables")
	}
	return err
}

// makeImage puts the mix into an ext4 file system in a file of 4 GiB, most of whose free space is holes.
func makeImage(ctx context.Context, dir, made string) error {
	image := filepath.Join(dir, "disk.img")
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(4 * gib); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-E", "root_owner=0:0", "-d", filepath.Join(made, "mix"), image).CombinedOutput()
	if err != nil {
		return fmt.Errorf("making an ext4 file system: %w: %s", err, lastLines(string(out), 5))
	}
	return nil
}

// walkFiles calls visit for every regular file below a directory, in a fixed order.
func walkFiles(root string, visit func(path string, size int64) error) error {
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return visit(path, info.Size())
	})
}

// need says which datasets another one is made from.
func need(name string) []string {
	switch name {
	case "mix":
		return []string{"pg"}
	case "image":
		return []string{"pg", "mix"}
	}
	return nil
}

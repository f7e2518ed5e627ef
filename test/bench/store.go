package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Stores, by the names that -stores takes.
const (
	storeLocal = "local"
	storeS3    = "s3"
	storeFar   = "s3-20ms"
)

var stores = []string{storeLocal, storeS3, storeFar}

// far is what storeFar adds to each request.
const far = 20 * time.Millisecond

// store is an empty place for one repository: a directory, or a bucket of a server of its own.
type store struct {
	kind string
	path string // of a directory
	host string // host:port of a server

	server *exec.Cmd
	stdin  io.Closer
}

func openStore(ctx context.Context, kind, dir string) (*store, error) {
	if kind == storeLocal {
		s := &store{kind: kind, path: filepath.Join(dir, "repository")}
		return s, os.Mkdir(s.path, 0o700)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	delay := time.Duration(0)
	if kind == storeFar {
		delay = far
	}
	s := &store{kind: kind, server: exec.CommandContext(ctx, self, "-mode", modeServe, "-delay", delay.String())}
	s.server.Stderr = os.Stderr
	if s.stdin, err = s.server.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := s.server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.server.Start(); err != nil {
		return nil, fmt.Errorf("starting the S3 server: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.close()
		return nil, fmt.Errorf("reading the S3 server's address: %w", err)
	}
	s.host = strings.TrimSpace(line)
	return s, nil
}

// close ends the server; a directory goes with the one it is in.
func (s *store) close() {
	if s.server == nil {
		return
	}
	_ = s.stdin.Close() // this is what it ends by
	_ = s.server.Wait() // however it ended
}

// env has the credentials that every tool finds by itself. The server checks none.
func (s *store) env() []string {
	if s.host == "" {
		return nil
	}
	return []string{"AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench-bench", "AWS_REGION=" + region, "AWS_EC2_METADATA_DISABLED=true"}
}

func (s *store) usage(ctx context.Context) (usage, error) {
	var u usage
	if s.host == "" {
		err := filepath.WalkDir(s.path, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			u.Bytes += info.Size()
			u.Objects++
			return nil
		})
		return u, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.host+usagePath, nil)
	if err != nil {
		return u, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return u, fmt.Errorf("asking the S3 server what it holds: %s", resp.Status)
	}
	return u, json.NewDecoder(resp.Body).Decode(&u)
}

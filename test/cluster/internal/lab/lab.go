//go:build linux

// Package lab runs what clusters share: a bridge that joins them to the
// machine, a Git server, and a real S3 server.
package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/namespace"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/network"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/proc"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// Lab is what is recorded of the lab, and what users are told.
type Lab struct {
	Address string `json:"address"`
	Git     Git    `json:"git"`
	S3      S3     `json:"s3"`
	PID     int    `json:"pid"`

	Dir    string  `json:"dir"`
	Bridge string  `json:"bridge"`
	Index  int     `json:"index"`
	Init   proc.ID `json:"init"`
}

// Git says where the Git server is: the repository NAME has the URL
// URL/NAME.git and is the bare repository Dir/NAME.git.
type Git struct {
	URL string `json:"url"`
	Dir string `json:"dir"`
}

// S3 says where the S3 server is and how to log in.
type S3 struct {
	Endpoint  string `json:"endpoint"`
	AccessKey string `json:"accessKey"`
	SecretKey string `json:"secretKey"`
	Region    string `json:"region"`
}

const (
	gitPort   = 8418
	s3Port    = 8480
	stateFile = "state.json"
	// labs is how many labs, of different homes, a machine has room for.
	labs = 16
)

// ErrDown says that the lab is not running.
var ErrDown = errors.New("the lab is not running: start it with `cluster lab up`")

// Load returns the running lab.
func Load(h home.Home) (Lab, error) {
	l, err := recorded(h)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !l.Init.Alive()) {
		return Lab{}, ErrDown
	}
	return l, err
}

func recorded(h home.Home) (l Lab, err error) {
	return l, home.ReadJSON(filepath.Join(h.Lab(), stateFile), &l)
}

// Up returns the running lab, starting it unless it runs. Its network and Git
// are there at once; S3 takes some seconds, see AwaitS3.
func Up(ctx context.Context, h home.Home) (Lab, error) {
	unlock, err := h.Lock(ctx, "lab")
	if err != nil {
		return Lab{}, err
	}
	defer unlock()
	l, err := recorded(h)
	switch {
	case err == nil && l.Init.Alive():
		return l, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Lab{}, err
	}
	if err := remove(ctx, h, l, false); err != nil {
		return Lab{}, fmt.Errorf("clearing what was left of the lab: %w", err)
	}
	if l, err = reserve(h, l); err != nil {
		return Lab{}, err
	}
	if err := l.start(); err != nil {
		return Lab{}, errors.Join(fmt.Errorf("starting the lab: %w", err), remove(ctx, h, l, true))
	}
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := supervise.TCP(net.JoinHostPort(l.Address, strconv.Itoa(gitPort)))(wait); err != nil {
		return Lab{}, fmt.Errorf("waiting for the Git server (see %s): %w", filepath.Join(l.Dir, "log"), err)
	}
	return l, nil
}

// reserve makes the lab's bridge, the first that no other lab has, and records
// the lab. It takes over the bridge of a lab whose servers died: clusters may
// still be joined to it.
func reserve(h home.Home, died Lab) (Lab, error) {
	for index := range labs {
		l := Lab{Index: index, Bridge: fmt.Sprintf("lslab%d", index), Address: fmt.Sprintf("10.77.%d.1", index), Dir: h.Lab()}
		mine := died.Bridge != "" && died.Init.ThisBoot()
		if mine && l.Bridge != died.Bridge {
			continue
		}
		err := network.AddBridge(l.Bridge, l.Address+"/24")
		if errors.Is(err, network.ErrTaken) && !mine {
			continue
		}
		if err != nil && !errors.Is(err, network.ErrTaken) {
			return Lab{}, err
		}
		l.Git = Git{URL: fmt.Sprintf("http://%s:%d", l.Address, gitPort), Dir: filepath.Join(l.Dir, "git")}
		l.S3 = S3{
			Endpoint: fmt.Sprintf("http://%s:%d", l.Address, s3Port), Region: "us-east-1",
			AccessKey: rand.Text()[:20], SecretKey: rand.Text() + rand.Text()[:14],
		}
		return l, errors.Join(os.MkdirAll(l.Git.Dir, 0o755), os.MkdirAll(filepath.Join(l.Dir, "log"), 0o755), l.save())
	}
	return Lab{}, fmt.Errorf("all %d lab networks of this machine are taken", labs)
}

func (l Lab) save() error { return home.WriteJSON(filepath.Join(l.Dir, stateFile), l) }

func (l *Lab) start() error {
	id, release, err := proc.Spawn(filepath.Join(l.Dir, "log", "init.log"), unix.CLONE_NEWNS|unix.CLONE_NEWPID, "internal", "lab", l.Dir)
	if err != nil {
		return err
	}
	l.Init, l.PID = id, id.PID
	if err := l.save(); err != nil {
		return err
	}
	return release()
}

// Down ends the lab's servers and removes everything it made. It refuses while
// clusters need its network.
func Down(ctx context.Context, h home.Home) error {
	unlock, err := h.Lock(ctx, "lab")
	if err != nil {
		return err
	}
	defer unlock()
	names, err := clusters(h)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("clusters need the lab: %s", strings.Join(names, ", "))
	}
	l, err := recorded(h)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return remove(ctx, h, l, true)
}

func clusters(h home.Home) ([]string, error) {
	dirs, err := os.ReadDir(h.Clusters())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, d := range dirs {
		names = append(names, d.Name())
	}
	return names, err
}

func remove(ctx context.Context, h home.Home, l Lab, bridge bool) error {
	if err := l.Init.Kill(ctx); err != nil {
		return err
	}
	if bridge && l.Bridge != "" {
		if err := network.Remove(l.Bridge); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// A mount namespace that is just ending may still hold mounts.
	return supervise.Poll(ctx, 20*time.Millisecond, func(context.Context) error { return os.RemoveAll(h.Lab()) })
}

// Init is the first process of the lab. It runs the servers until it is killed.
func Init(ctx context.Context, dir string) error {
	if err := proc.AwaitRelease(); err != nil {
		return err
	}
	var l Lab
	if err := home.ReadJSON(filepath.Join(dir, stateFile), &l); err != nil {
		return err
	}
	if err := namespace.Enter(dir, nil); err != nil {
		return err
	}
	git := supervise.Process{Name: "git", Argv: []string{"/proc/self/exe", "internal", "git",
		"--listen=" + net.JoinHostPort(l.Address, strconv.Itoa(gitPort)), "--dir=" + namespace.Dir + "/git"}}
	s3, err := prepareCeph(ctx, l)
	if err != nil {
		return err
	}
	return supervise.Run(ctx, namespace.Dir+"/log", append(s3, git))
}

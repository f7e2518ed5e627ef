package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is the running controller.
type process struct {
	cmd            *exec.Cmd
	log            *os.File
	metrics, pprof string
	ended          chan error
}

// startProcess starts the controller as `lockstep install` does, but for addresses and credentials.
func startProcess(dir, controller string, kubeconfig []byte) (*process, error) {
	config := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(config, kubeconfig, 0o600); err != nil {
		return nil, err
	}
	p := &process{ended: make(chan error, 1)}
	var health string
	for _, address := range []*string{&p.metrics, &p.pprof, &health} {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed in the next line
		if err != nil {
			return nil, err
		}
		*address = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, "controller.log")); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(controller, "manager", "--kubeconfig", config, "--image", "lockstep.test/controller:dev", //nolint:noctx // stop ends it
		"--metrics-addr", p.metrics, "--health-addr", health, "--pprof-addr", p.pprof)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p, nil
}

// stop ends the controller in good order.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("the controller: %w: %s", err, p.lastWords())
		}
		return p.log.Close()
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("the controller does not end"), p.cmd.Process.Kill())
	}
}

// lastWords is the end of the controller's log.
func (p *process) lastWords() string {
	data, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-2000):])
}

// memory is what of the machine's the process has, in MiB.
type memory struct {
	Resident, Proportional, Most float64
}

func (p *process) memory() (memory, error) {
	var m memory
	for _, figure := range []struct {
		file, name string
		into       *float64
	}{{"status", "VmRSS", &m.Resident}, {"status", "VmHWM", &m.Most}, {"smaps_rollup", "Pss", &m.Proportional}} {
		data, err := p.proc(figure.file)
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(data) {
			if rest, ok := strings.CutPrefix(line, figure.name+":"); ok {
				kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil {
					return m, err
				}
				*figure.into = kib / 1024
			}
		}
	}
	return m, nil
}

// ticksPerSecond is what Linux counts processor time in.
const ticksPerSecond = 100

// processor is how many seconds of processor time the process has used.
func (p *process) processor() (float64, error) {
	data, err := p.proc("stat")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, ticks := range strings.Fields(data[strings.LastIndexByte(data, ')')+1:])[11:13] { // utime and stime
		n, err := strconv.ParseFloat(ticks, 64)
		if err != nil {
			return 0, err
		}
		total += n / ticksPerSecond
	}
	return total, nil
}

func (p *process) proc(file string) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		return "", fmt.Errorf("the controller has ended: %w: %s", err, p.lastWords())
	}
	return string(data), nil
}

// counters are those of the controller's metrics with the prefix, summed over all labels but the one named.
func (p *process) counters(ctx context.Context, name, label string) (map[string]float64, error) {
	text, err := get(ctx, "http://"+p.metrics+"/metrics")
	if err != nil {
		return nil, err
	}
	sums := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		labels, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(line, name+"{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the controller's metrics: %w", err)
		}
		_, rest, _ := strings.Cut(labels, label+`="`)
		key, _, _ := strings.Cut(rest, `"`)
		sums[key] += n
	}
	return sums, nil
}

// profile writes one of the controller's profiles into a file.
func (p *process) profile(ctx context.Context, what, file string) error {
	data, err := get(ctx, "http://"+p.pprof+"/debug/pprof/"+what)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return data, err
}

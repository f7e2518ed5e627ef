//go:build linux

package proc

import (
	"os"
	"os/exec"
	"testing"
)

func TestKill(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !id.Alive() {
		t.Fatal("a running process is not alive")
	}
	later := id
	later.Start++
	if later.Alive() {
		t.Error("another process with the same number is taken for it")
	}
	if err := later.Kill(t.Context()); err != nil {
		t.Errorf("killing a process that is gone: %v", err)
	}
	if !id.Alive() {
		t.Fatal("a process was killed for another that had its number")
	}
	if err := id.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id.Alive() { // a zombie until it is waited for below
		t.Error("a killed process is alive")
	}
	_ = cmd.Wait() // "signal: killed"
	if err := id.Kill(t.Context()); err != nil {
		t.Errorf("killing it again: %v", err)
	}
	if _, err := Identify(id.PID); err == nil {
		t.Error("a process that is gone was identified")
	}
}

func TestIdentifySelf(t *testing.T) {
	id, err := Identify(os.Getpid())
	if err != nil || !id.Alive() || !id.ThisBoot() {
		t.Errorf("%+v, %v", id, err)
	}
	if (ID{}).Alive() || (ID{}).ThisBoot() {
		t.Error("no process is alive")
	}
}

package render

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestInTime does not wait for what does not end, and keeps to itself what fails.
func TestInTime(t *testing.T) {
	ended := make(chan struct{})
	_, err := inTime(t.Context(), time.Millisecond, func() (int, error) { <-ended; return 0, nil })
	if err == nil || !strings.Contains(err.Error(), "longer than 1ms") {
		t.Errorf("what does not end: %v", err)
	}
	close(ended)
	if _, err := inTime(t.Context(), time.Hour, func() (int, error) { panic("x") }); err == nil || !strings.Contains(err.Error(), "fail: x") {
		t.Errorf("what panics: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inTime(over, time.Hour, func() (int, error) { <-over.Done(); <-t.Context().Done(); return 0, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("when the check is over: %v", err)
	}
}

// TestChartsAreBounded has charts of strangers.
func TestChartsAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ template, says string }{
		"a long text":      {`{{ repeat 1000000000 "x" }}`, "bytes"},
		"a long indent":    {`{{ indent 1000000000 "x" }}`, "bytes"},
		"a long list":      {`{{ range until 1000000000 }}x{{ end }}`, "values"},
		"a text of itself": {`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $s = print $s $s }}{{ end }}{{ $s }}`, "bytes"},
		"a circle":         {`{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}`, "rendering template"},
		"the network":      {`x: {{ getHostByName "example.org" }}1`, "without a kind"},
		"the environment":  {`x: {{ env "HOME" }}`, "env"},
		"no YAML":          {"kind: [", "templates/a.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, map[string]string{"c/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}", "c/templates/a.yaml": c.template})
			r, err := Discover(t.Context(), Commit{Root: root}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			objects, _, err := r.helm(t.Context(), install{dir: "c", name: "c", namespace: "x"})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, error %v, want it to say %q", objects, err, c.says)
			}
			if err != nil && strings.Contains(err.Error(), root) {
				t.Errorf("the error shows where the commit is: %v", err)
			}
		})
	}
	outside := tree(t, map[string]string{
		"c/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}", "c/templates/a.yaml": "-> ../../../secret.yaml", "../secret.yaml": configMap("secret", "x"),
	})
	r, err := Discover(t.Context(), Commit{Root: outside}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if objects, _, err := r.helm(t.Context(), install{dir: "c", name: "c"}); err == nil {
		t.Errorf("a link led outside: %v", objects)
	}
}

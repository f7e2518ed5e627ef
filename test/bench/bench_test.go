package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// small makes a small dataset on the disk.
func small(t *testing.T, pick func(string, *rand.Rand) ([]change, error)) (dataset, string) {
	t.Helper()
	d := dataset{name: "test", make: smallFiles(1100, 6_000), pick: pick}
	dir, err := d.prepare(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d, dir
}

// sameAs reports how two trees differ, and how their times do.
func sameAs(t *testing.T, want, got string) (times string, err error) {
	t.Helper()
	times, err = same(t.Context(), want, got)
	if t.Context().Err() != nil {
		t.Fatal(err)
	}
	return times, err
}

// duplicate copies a tree with its times.
func duplicate(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

func TestDataIsTheSameEachTime(t *testing.T) {
	_, one := small(t, nil)
	_, two := small(t, nil)
	if _, err := sameAs(t, one, two); err != nil {
		t.Error(err)
	}
}

func TestEditIsTakenBack(t *testing.T) {
	for name, pick := range map[string]func(string, *rand.Rand) ([]change, error){"pages": pickPages(""), "files": pickFiles} {
		t.Run(name, func(t *testing.T) {
			d, dir := small(t, pick)
			before := duplicate(t, dir)
			var during []string
			for range 2 {
				if err := d.edited(dir, 7, func() error { during = append(during, duplicate(t, dir)); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := sameAs(t, before, during[0]); err == nil {
				t.Error("the edit has changed nothing")
			}
			if _, err := sameAs(t, during[0], during[1]); err != nil {
				t.Errorf("the same seed makes another edit: %v", err)
			}
			if times, err := sameAs(t, before, dir); err != nil || times != "" {
				t.Errorf("the edit was not taken back: %v %s", err, times)
			}
		})
	}
}

func TestSameNamesWhatDiffers(t *testing.T) {
	_, dir := small(t, nil)
	first := filepath.Join("d00", "s00", "f000000.txt")
	for name, test := range map[string]struct {
		alter        func(path string) error
		times, fails bool
	}{
		"nothing":      {func(string) error { return nil }, false, false},
		"a time":       {func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) }, true, false},
		"the content":  {func(path string) error { return os.WriteFile(path, []byte("altered"), 0o644) }, true, true},
		"the mode":     {func(path string) error { return os.Chmod(path, 0o600) }, false, true},
		"it is gone":   {os.Remove, true, true},
		"there's more": {func(path string) error { return os.WriteFile(path+".more", nil, 0o644) }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			other := duplicate(t, dir)
			if err := test.alter(filepath.Join(other, first)); err != nil {
				t.Fatal(err)
			}
			times, err := sameAs(t, dir, other)
			if (times != "") != test.times || (err != nil) != test.fails {
				t.Errorf("times %q, %v", times, err)
			}
			if err != nil && !strings.Contains(err.Error(), first) {
				t.Errorf("%q is not named: %v", first, err)
			}
		})
	}
}

// ask sends one request to the server and returns status and body.
func ask(t *testing.T, method, url, body string, header map[string]string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

func TestServerStores(t *testing.T) {
	server := httptest.NewServer(handler(newMemory(), 0))
	defer server.Close()
	base := server.URL + "/" + bucket
	const chunked = "5;chunk-signature=00\r\nhello\r\n3;chunk-signature=00\r\n...\r\n0;chunk-signature=00\r\n\r\n"
	for _, step := range []struct {
		method, path, body string
		header             map[string]string
		status             int
		answer             string
	}{
		{http.MethodPut, "/a/1", "12345", map[string]string{"If-None-Match": "*", "X-Amz-Meta-Writer": "me"}, 200, ""},
		{http.MethodPut, "/a/1", "other", map[string]string{"If-None-Match": "*"}, 412, "PreconditionFailed"},
		{http.MethodGet, "/a/1", "", nil, 200, "12345"},
		{http.MethodGet, "/a/1", "", map[string]string{"Range": "bytes=1-2"}, 206, "23"},
		{http.MethodPut, "/a/2", chunked, map[string]string{"X-Amz-Decoded-Content-Length": "8"}, 200, ""},
		{http.MethodGet, "/a/2", "", nil, 200, "hello..."},
		{http.MethodPut, "/a/3", chunked, map[string]string{"X-Amz-Decoded-Content-Length": "7"}, 400, "announced"},
		{http.MethodPut, "/a/3", chunked, map[string]string{"X-Amz-Decoded-Content-Length": "9"}, 400, "announced"},
		{http.MethodPut, "/b/1", "1", nil, 200, ""},
		{http.MethodGet, "?list-type=2&max-keys=2", "", nil, 200, "<Key>a/2</Key>"},
		{http.MethodGet, "?list-type=2&max-keys=2", "", nil, 200, "<IsTruncated>true"},
		{http.MethodGet, "?list-type=2&start-after=a/2", "", nil, 200, "<KeyCount>1<"},
		{http.MethodGet, "?list-type=2&delimiter=/", "", nil, 200, "<Prefix>b/</Prefix>"},
		{http.MethodDelete, "/a/1", "", nil, 204, ""},
		{http.MethodGet, "/a/1", "", nil, 404, "NoSuchKey"},
	} {
		status, answer := ask(t, step.method, base+step.path, step.body, step.header)
		if status != step.status || !strings.Contains(answer, step.answer) {
			t.Errorf("%s %s: %d %q, want %d and %q", step.method, step.path, status, answer, step.status, step.answer)
		}
	}
}

func TestServerCountsAndDelays(t *testing.T) {
	const delay = 30 * time.Millisecond
	server := httptest.NewServer(handler(newMemory(), delay))
	defer server.Close()
	start := time.Now()
	if status, answer := ask(t, http.MethodPut, server.URL+"/"+bucket+"/a/b", "12345", nil); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if took := time.Since(start); took < delay {
		t.Errorf("the request took %v, less than the delay", took)
	}
	s := &store{kind: storeFar, host: strings.TrimPrefix(server.URL, "http://")}
	got, err := s.usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (usage{Bytes: 5, Objects: 1, Requests: 1}); got != want {
		t.Errorf("usage is %+v, want %+v", got, want)
	}
}

func TestMeasureSeesTheWholeProcess(t *testing.T) {
	took, out, err := measure(t.Context(), command{args: []string{"sh", "-c", "head -c 30000000 /dev/zero | wc -c"}}, time.Minute)
	if err != nil || strings.TrimSpace(string(out)) != "30000000" {
		t.Fatalf("printed %q, %v", out, err)
	}
	if took.Wall <= 0 || took.RSS <= 0 {
		t.Errorf("measured %+v", took)
	}
	if _, _, err := measure(t.Context(), command{args: []string{"sh", "-c", "sleep 60"}}, 50*time.Millisecond); !errors.Is(err, errOverLimit) {
		t.Errorf("over the limit: %v", err)
	}
	if _, _, err := measure(t.Context(), command{args: []string{"sh", "-c", "echo why >&2; exit 3"}}, time.Minute); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a failure does not say why: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := measure(ctx, command{args: []string{"sh", "-c", "sleep 60"}}, time.Minute); err == nil {
		t.Error("runs on after an interrupt")
	}
}

func TestJudge(t *testing.T) {
	runs := func(tool string, walls ...float64) (out []result) {
		for i, w := range walls {
			out = append(out, result{Dataset: "pg", Store: storeLocal, Tool: tool, Operation: opSave, Round: i + 1, cost: cost{Wall: w}})
		}
		return out
	}
	over := runs("restic", 120)
	over[0].Over = true
	failed := runs("restic", 1)
	failed[0].Fault = "broken"
	goal := target{"save", "pg", storeLocal, opSave, "", []string{"restic", "kopia-tuned"}, wall, 2}
	for name, test := range map[string]struct {
		results           []result
		measured, verdict string
	}{
		"the best rival's median counts":  {append(append(runs("lockstep", 9, 2, 2), runs("restic", 8, 8, 8)...), runs("kopia-tuned", 1, 5, 6)...), "2.50× of kopia-tuned", "reached"},
		"behind":                          {append(runs("lockstep", 4), runs("restic", 6)...), "1.50× of restic", "**not reached**"},
		"cut off, and yet it proves":      {append(runs("lockstep", 4), over...), "> 30.00× of restic", "reached"},
		"cut off, and it proves nothing":  {append(runs("lockstep", 100), over...), "> 1.20× of restic", "unknown"},
		"a rival that failed is no rival": {append(runs("lockstep", 4), failed...), "no rival measured", "unknown"},
		"lockstep was not measured":       {runs("restic", 4), "lockstep: not measured", "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			measured, verdict := report{results: test.results}.judge(goal)
			if measured != test.measured || verdict != test.verdict {
				t.Errorf("got %q, %q; want %q, %q", measured, verdict, test.measured, test.verdict)
			}
		})
	}
}

package mover_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/mover"
)

func TestResultFitsIntoAMessage(t *testing.T) {
	long := mover.Result{Error: strings.Repeat("é", 9000), Reason: mover.ReasonFiles}
	for i := range 500 {
		long.Unreadable = append(long.Unreadable, fmt.Sprintf("%q", strings.Repeat("x", 200)+fmt.Sprint(i)))
	}
	changed := mover.Result{Snapshot: "id", Changed: long.Unreadable}
	if got, err := mover.DecodeResults(string(mover.Results{changed}.Encode(make([]mover.Task, 1)))); err != nil || len(got[0].Changed)+got[0].More != 500 {
		t.Errorf("what changed does not fit: %+v, %v", got, err)
	}
	for _, limit := range []int{0, 4096, 1024, 512} {
		data := mover.Results{long}.Encode([]mover.Task{{MessageLimit: limit}})
		if want := max(limit, 512); limit > 0 && len(data) > want+2 || len(data) > 4096+2 {
			t.Errorf("limit %d: %d bytes", limit, len(data))
		}
		all, err := mover.DecodeResults(string(data))
		if err != nil || len(all) != 1 {
			t.Fatalf("limit %d: %d results, %v", limit, len(all), err)
		}
		got := all[0]
		if got.Error == "" || got.Reason != mover.ReasonFiles || len(got.Unreadable)+got.More != 500 {
			t.Errorf("limit %d: %d paths and %d more, want 500 in all; reason %q", limit, len(got.Unreadable), got.More, got.Reason)
		}
	}
}

func TestResultComesBack(t *testing.T) {
	want := mover.Results{{Snapshot: "id", Bytes: 1, Stored: 2, Files: 3, ContentRoot: "c", MetaRoot: "m", Verified: true}, {Error: "no"}}
	got, err := mover.DecodeResults(string(want.Encode(make([]mover.Task, 2))))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := mover.DecodeResults("panic: out of memory"); err == nil {
		t.Error("what is no result was read as one")
	}
}

func TestPermanent(t *testing.T) {
	for reason, want := range map[mover.Reason]bool{
		mover.ReasonFiles: true, mover.ReasonMismatch: true, mover.ReasonDamaged: true, mover.ReasonVault: true,
		mover.ReasonUnavailable: false, mover.ReasonFailed: false,
	} {
		if got := (mover.Result{Error: "x", Reason: reason}).Permanent(); got != want {
			t.Errorf("%s: got %t, want %t", reason, got, want)
		}
	}
	if (mover.Result{}).Permanent() {
		t.Error("success is a permanent failure")
	}
}

func TestParseTasksRefuses(t *testing.T) {
	for _, value := range []string{"", "{", "[]", "{}"} {
		if _, err := mover.ParseTasks(value); err == nil {
			t.Errorf("%q was read as a task", value)
		}
	}
}

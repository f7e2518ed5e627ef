// Package mover copies one volume to or from a vault inside a pod: the task it is given, the Job that carries it, what
// can be seen of it from outside, and the copying itself.
//
// A mover has no access to the Kubernetes API. It is told its task in one environment variable, shows progress as JSON
// lines on standard output, and leaves its result as JSON in the termination message of its container.
package mover

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Action is what a mover does.
type Action string

// Actions.
const (
	// ActionSave reads a directory or a device into the vault.
	ActionSave Action = "Save"
	// ActionLoad fills a directory or a device from the vault.
	ActionLoad Action = "Load"
	// ActionCopy brings a restore point from one vault into another; there is no volume.
	ActionCopy Action = "Copy"
	// ActionPrune gives up what removed points kept of the vault, and deletes what no other needs. It has no volume.
	ActionPrune Action = "Prune"
)

// TaskEnv is the environment variable that holds a container's Tasks as JSON.
const TaskEnv = "LOCKSTEP_TASK"

// Task is what is done to one volume. It holds no secret.
type Task struct {
	Action Action `json:"action"`
	// Claim names the volume where a container has several; NewJob sets it.
	Claim string `json:"claim,omitempty"`
	// VaultURL is where the vault is, as pkg/store/backend reads it.
	VaultURL string `json:"vaultURL"`
	// Dir is the mounted volume, or the device itself; NewJob sets it.
	Dir string `json:"dir"`
	// Device says that Dir is a block device; NewJob sets it.
	Device bool `json:"device,omitempty"`
	// Live says that a volume to save is written to meanwhile: it is mounted for reading only in the whole pod, and files that change while
	// they are read do not fail the save.
	Live bool `json:"live,omitempty"`
	// Snapshot is the saved volume to load.
	Snapshot string `json:"snapshot,omitempty"`
	// Labels go into the saved volume, for people who list a vault.
	Labels map[string]string `json:"labels,omitempty"`
	// Verify says how a load is proven.
	Verify v1alpha1.Verify `json:"verify,omitempty"`
	// ContentRoot and MetaRoot are the digests that a load must arrive at.
	ContentRoot string `json:"contentRoot,omitempty"`
	MetaRoot    string `json:"metaRoot,omitempty"`
	// To is where the vault is that a copy goes to, Point what is copied, Recheck that what is there already is read back, too.
	To      string `json:"to,omitempty"`
	Point   string `json:"point,omitempty"`
	Recheck bool   `json:"recheck,omitempty"`
	// MessageLimit is the most bytes that the result may have; NewJob sets it.
	MessageLimit int `json:"messageLimit,omitempty"`
}

// ParseTasks reads the value of TaskEnv: what a container does, one after another.
func ParseTasks(value string) ([]Task, error) {
	if value == "" {
		return nil, fmt.Errorf("%s is not set: a mover is started by the controller, not by hand", TaskEnv)
	}
	var tasks []Task
	if err := json.Unmarshal([]byte(value), &tasks); err != nil {
		return nil, fmt.Errorf("parsing %s: %w", TaskEnv, err)
	}
	if len(tasks) == 0 {
		return nil, fmt.Errorf("%s names nothing to do", TaskEnv)
	}
	return tasks, nil
}

// Reason says in one word why a mover failed.
type Reason string

// Reasons of a failed mover.
const (
	// ReasonFiles: files could not be read; Result.Files names the first. Trying again does not help.
	ReasonFiles Reason = "Files"
	// ReasonMismatch: what is on the volume is not what was saved.
	ReasonMismatch Reason = "Mismatch"
	// ReasonDamaged: the vault answers, and does not hold what it should.
	ReasonDamaged Reason = "Damaged"
	// ReasonVault: the vault cannot be opened with this key. Trying again does not help.
	ReasonVault Reason = "Vault"
	// ReasonRemoved: the restore point to copy was removed from one of the vaults.
	ReasonRemoved Reason = "Removed"
	// ReasonUnavailable: the store did not answer. Trying again may help.
	ReasonUnavailable Reason = "Unavailable"
	// ReasonFailed: anything else; the error says what. Trying again may help.
	ReasonFailed Reason = "Failed"
)

// Result is what was done to one volume. Error is empty if, and only if, everything was done and proven.
type Result struct {
	// Snapshot is the saved or loaded volume in the vault.
	Snapshot string `json:"snapshot,omitempty"`
	// Bytes is the apparent size of all files, Stored what a save added to the vault, Files the number of entries.
	Bytes       int64  `json:"bytes,omitempty"`
	Stored      int64  `json:"stored,omitempty"`
	Files       int64  `json:"files,omitempty"`
	ContentRoot string `json:"contentRoot,omitempty"`
	MetaRoot    string `json:"metaRoot,omitempty"`
	// Reread counts what was found altered when it was read from the vault, and good when it was read once more.
	Reread int64 `json:"reread,omitempty"`
	// Verified says that a load arrived at the digests that the task named.
	Verified bool `json:"verified,omitempty"`
	// LockedUntil is until when the other vault keeps the point that was copied, whoever asks to delete it; zero is not at all.
	LockedUntil time.Time `json:"lockedUntil,omitzero"`
	// Pruned is what a prune did.
	Pruned *Pruned `json:"pruned,omitempty"`
	Error  string  `json:"error,omitempty"`
	Reason Reason  `json:"reason,omitempty"`
	// Unreadable are the first paths that could not be read, Changed those that changed each time they were read by a live save, and More is
	// the number of further ones.
	Unreadable []string `json:"unreadable,omitempty"`
	Changed    []string `json:"changed,omitempty"`
	More       int      `json:"more,omitempty"`
}

// Permanent reports whether the mover failed in a way that another try cannot mend.
func (r Result) Permanent() bool {
	return r.Error != "" && r.Reason != ReasonUnavailable && r.Reason != ReasonFailed
}

// defaultMessage is what a kubelet keeps of one container's termination message, in bytes; shortestError is the length
// below which Encode does not cut the error.
const (
	defaultMessage = 4096
	shortestError  = 64
)

// Encode writes the result in at most limit bytes, 4096 if limit is 0: paths are left out first, and counted in More, then the
// end of the error. Only a limit too small for a result without lists is exceeded.
func (r Result) Encode(limit int) []byte {
	if limit <= 0 {
		limit = defaultMessage
	}
	for {
		data, err := json.Marshal(r)
		switch {
		case err != nil || len(data) <= limit: // strings, numbers and booleans always marshal
			return data
		case len(r.Unreadable) > 0:
			r.Unreadable = r.Unreadable[:len(r.Unreadable)-1]
			r.More++
		case len(r.Changed) > 0:
			r.Changed = r.Changed[:len(r.Changed)-1]
			r.More++
		case len(r.Error) > shortestError:
			r.Error = strings.ToValidUTF8(r.Error[:max(shortestError, len(r.Error)*3/4)], "")
		default:
			return data
		}
	}
}

// Results are what a container did, in the order of its tasks; as many as it has come to.
type Results []Result

// Encode writes the results, each in at most the limit of its task.
func (all Results) Encode(tasks []Task) []byte {
	message := []byte{'['}
	for i, r := range all {
		if i > 0 {
			message = append(message, ',')
		}
		message = append(message, r.Encode(tasks[i].MessageLimit)...)
	}
	return append(message, ']')
}

// DecodeResults reads what Results.Encode wrote.
func DecodeResults(message string) (Results, error) {
	var all Results
	if err := json.Unmarshal([]byte(message), &all); err != nil {
		return nil, fmt.Errorf("reading the mover's results: %w", err)
	}
	return all, nil
}

// Progress is one line of a mover's standard output.
type Progress struct {
	// Claim is the task's.
	Claim string `json:"claim,omitempty"`
	// Bytes is what has been read or written so far, Total all there is to do, 0 while unknown.
	Bytes int64 `json:"bytes"`
	Total int64 `json:"total,omitempty"`
	Files int64 `json:"files,omitempty"`
	// Idle is for how many seconds nothing has moved: no byte, no file. The mover tells the time itself, so that no two clocks are
	// compared.
	Idle int64 `json:"idle,omitempty"`
	// Verifying says that a load is reading back what it wrote; the counts began again from zero.
	Verifying bool `json:"verifying,omitempty"`
}

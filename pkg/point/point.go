// Package point is the record of a restore point: what the vault keeps of one application at one moment. A record is
// written once, last of all, and is all that a fresh cluster needs to find the data again.
package point

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Version is the record version that this package writes, and the newest that it reads.
const Version = 1

// DocumentKind is the kind of the vault documents that hold records; a record's name there is its ID.
const DocumentKind = "point"

// ResidualKind is the kind of the vault documents that hold residual objects; Record.Residual.Document names one.
const ResidualKind = "residual"

// ErrInvalid is wrapped by every refusal of Decode.
var ErrInvalid = errors.New("invalid restore point record")

// Record is one restore point. It holds no secret values: those are in the residual document.
type Record struct {
	Version int `json:"version"`
	// ID sorts by time: "<UTC time of the request>-<first 8 digits of its UID>".
	ID string `json:"id"`
	// Application is "<namespace>/<name>" of the policy.
	Application string            `json:"application"`
	Revision    v1alpha1.Revision `json:"revision"`
	Trigger     v1alpha1.Trigger  `json:"trigger"`
	Before      string            `json:"before,omitempty"`
	Taken       time.Time         `json:"taken"`
	Completed   time.Time         `json:"completed"`
	Volumes     []Volume          `json:"volumes"`
	// Group says that one group snapshot had all volumes: they are of one moment.
	Group    bool      `json:"group,omitempty"`
	Residual *Residual `json:"residual,omitempty"`
}

// Volume is one saved claim with what a fresh cluster needs to make it again.
type Volume struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Labels and Annotations of the claim, without those that bind it to its old cluster.
	Labels      map[string]string                `json:"labels,omitempty"`
	Annotations map[string]string                `json:"annotations,omitempty"`
	Spec        corev1.PersistentVolumeClaimSpec `json:"spec"`
	// Capacity is the size of the volume in bytes, at least the request.
	Capacity    int64     `json:"capacity"`
	Provisioner string    `json:"provisioner,omitempty"`
	Taken       time.Time `json:"taken"`
	// Consistency is left out where it is Crash.
	Consistency v1alpha1.Consistency `json:"consistency,omitempty"`
	// Changed counts the files and directories of a fuzzy volume that changed while they were read. Their entries in the saved volume say so.
	Changed int `json:"changed,omitempty"`
	// Snapshot is the id of the saved volume in the same vault.
	Snapshot    string `json:"snapshot"`
	Bytes       int64  `json:"bytes"`
	Files       int64  `json:"files"`
	ContentRoot string `json:"contentRoot"`
	MetaRoot    string `json:"metaRoot"`
}

// Consistency is the least of the volumes'.
func (r Record) Consistency() v1alpha1.Consistency {
	of := make([]v1alpha1.Consistency, len(r.Volumes))
	for i, v := range r.Volumes {
		of[i] = v.Consistency
	}
	return Least(of...)
}

// Least is the one that least can be relied on for. None said is Crash.
func Least(of ...v1alpha1.Consistency) v1alpha1.Consistency {
	order := []v1alpha1.Consistency{v1alpha1.ConsistencyFuzzy, v1alpha1.ConsistencyCrash, v1alpha1.ConsistencyApplication}
	for _, c := range order {
		if slices.Contains(of, c) || c == v1alpha1.ConsistencyCrash && (len(of) == 0 || slices.Contains(of, "")) {
			return c
		}
	}
	return v1alpha1.ConsistencyCrash
}

// Key is "<namespace>/<claim>".
func (v Volume) Key() string { return v.Namespace + "/" + v.Claim }

// Residual names the sealed document with the objects that Git does not hold.
type Residual struct {
	Document string `json:"document"`
	Secrets  int    `json:"secrets"`
	// Objects counts those of all other kinds. Programs that know Secrets only refuse a record that has any.
	Objects int `json:"objects,omitempty"`
}

// NewID makes the ID of the point that was asked for at a moment by the object with the UID. The same request always
// has the same ID, so that a controller that dies after writing a record finds it again instead of writing a second.
func NewID(requested time.Time, uid string) string {
	digits := strings.ReplaceAll(uid, "-", "")
	if len(digits) > 8 {
		digits = digits[:8]
	}
	return requested.UTC().Format("20060102-150405") + "-" + strings.ToLower(digits)
}

// Encode writes the record as JSON; the same record always gives the same bytes.
func Encode(r Record) ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// endless matches quantities whose exponent alone would keep Kubernetes' parser busy for minutes.
var endless = regexp.MustCompile(`^"?[-+0-9.]+[eE][-+]?[0-9]{3,}"?$`)

// quantity is one that is not endless.
type quantity struct{}

func (quantity) UnmarshalJSON(data []byte) error {
	if endless.Match(data) {
		return fmt.Errorf("the quantity %s is out of range", data)
	}
	return nil
}

// checkQuantities looks at all quantities of a record before Kubernetes' parser does, and at nothing else: IDs may look like them.
func checkQuantities(data []byte) error {
	var r struct {
		Volumes []struct {
			Spec struct {
				Resources struct{ Requests, Limits map[string]quantity }
			}
		}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// Decode reads a record strictly: an unknown field or version means that this program is too old to understand it, and
// guessing would be worse than refusing.
func Decode(data []byte) (Record, error) {
	// Unmarshal reads the whole of it: data after the record is refused here.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if head.Version != Version {
		return Record{}, fmt.Errorf("%w: version %d, this program reads version %d", ErrInvalid, head.Version, Version)
	}
	if err := checkQuantities(data); err != nil {
		return Record{}, err
	}
	var r Record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return r, r.validate()
}

func (r Record) validate() error {
	for _, f := range []struct{ name, value string }{
		{"id", r.ID}, {"application", r.Application}, {"revision.repository", r.Revision.Repository},
		{"revision.commit", r.Revision.Commit}, {"revision.path", r.Revision.Path}, {"revision.tree", r.Revision.Tree},
	} {
		if f.value == "" {
			return fmt.Errorf("%w: %s is empty", ErrInvalid, f.name)
		}
	}
	if r.Version != Version {
		return fmt.Errorf("%w: version %d", ErrInvalid, r.Version)
	}
	if r.Taken.IsZero() || r.Completed.IsZero() {
		return fmt.Errorf("%w: no time", ErrInvalid)
	}
	seen := map[string]bool{}
	for _, v := range r.Volumes {
		if v.Namespace == "" || v.Claim == "" || v.Snapshot == "" || v.ContentRoot == "" || v.MetaRoot == "" {
			return fmt.Errorf("%w: volume %q is incomplete", ErrInvalid, v.Key())
		}
		if seen[v.Key()] {
			return fmt.Errorf("%w: volume %q stands twice", ErrInvalid, v.Key())
		}
		seen[v.Key()] = true
	}
	return nil
}

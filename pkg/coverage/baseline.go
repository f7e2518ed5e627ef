package coverage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Baseline is what was found before, and is not held against a change.
type Baseline struct {
	// Version of the file's form.
	Version  int     `json:"version"`
	Findings []Known `json:"findings"`
}

// Known is a finding of a baseline. Only the fingerprint counts; the rest is for people.
type Known struct {
	Fingerprint string `json:"fingerprint"`
	Rule        string `json:"rule"`
	Object      Object `json:"object"`
	Message     string `json:"message"`
}

const baselineVersion = 1

// NewBaseline knows every finding of a report.
func NewBaseline(r Report) Baseline {
	b := Baseline{Version: baselineVersion, Findings: []Known{}}
	for _, f := range r.Findings {
		b.Findings = append(b.Findings, Known{Fingerprint: f.Fingerprint, Rule: f.Rule, Object: f.Object, Message: f.Message})
	}
	for _, s := range r.Suppressed {
		if s.By == ByBaseline {
			b.Findings = append(b.Findings, Known{Fingerprint: s.Fingerprint, Rule: s.Rule, Object: s.Object, Message: s.Message})
		}
	}
	slices.SortFunc(b.Findings, func(x, y Known) int { return strings.Compare(x.Rule+x.Fingerprint, y.Rule+y.Fingerprint) })
	b.Findings = slices.CompactFunc(b.Findings, func(x, y Known) bool { return x.Fingerprint == y.Fingerprint })
	return b
}

// ParseBaseline reads what Bytes wrote.
func ParseBaseline(data []byte) (Baseline, error) {
	var b Baseline
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return Baseline{}, err
	}
	if d.More() {
		return Baseline{}, errors.New("there is something behind its end")
	}
	if b.Version != baselineVersion {
		return Baseline{}, fmt.Errorf("its version is %d, and this program knows %d; write it anew", b.Version, baselineVersion)
	}
	for i, k := range b.Findings {
		if k.Fingerprint == "" {
			return Baseline{}, fmt.Errorf("entry %d has no fingerprint", i+1)
		}
	}
	return b, nil
}

// Bytes is the file.
func (b Baseline) Bytes() []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(b) // to memory, of strings: cannot fail
	return out.Bytes()
}

// Apply moves what the baseline knows out of the findings, and notes which of its entries are not found any more. The rest of the report
// stays: what is not protected is not protected, whoever knows of it.
func (r *Report) Apply(b Baseline) {
	known := map[string]bool{}
	for _, k := range b.Findings {
		known[k.Fingerprint] = true
	}
	found := map[string]bool{}
	fresh := []Finding{}
	for _, f := range r.Findings {
		found[f.Fingerprint] = true
		if known[f.Fingerprint] {
			r.Suppressed = append(r.Suppressed, Silenced{Finding: f, By: ByBaseline})
		} else {
			fresh = append(fresh, f)
		}
	}
	r.Findings = fresh
	for _, s := range r.Suppressed {
		found[s.Fingerprint] = true
	}
	if len(r.Unchanged) > 0 {
		return // what was not judged may have them still
	}
	for _, k := range b.Findings {
		if !found[k.Fingerprint] {
			r.BaselineGone = append(r.BaselineGone, k)
		}
	}
}

// Since moves what base has, too, out of the findings. What has become worse stays: that is what the change brings.
func (r *Report) Since(base Report) {
	before := map[string]Severity{}
	for _, f := range base.Findings {
		if known, ok := before[f.Fingerprint]; !ok || f.Severity.AtLeast(known) {
			before[f.Fingerprint] = f.Severity
		}
	}
	fresh := []Finding{}
	for _, f := range r.Findings {
		if was, ok := before[f.Fingerprint]; ok && was.AtLeast(f.Severity) {
			r.Existing = append(r.Existing, f)
		} else {
			fresh = append(fresh, f)
		}
	}
	r.Findings = fresh
}

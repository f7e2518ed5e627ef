package coverage

import (
	"bytes"
	"testing"
)

// FuzzParseBaseline: whatever a stranger's file holds, it is a baseline that is read again as it was, or an error.
func FuzzParseBaseline(f *testing.F) {
	f.Add(NewBaseline(Report{Findings: []Finding{{Rule: "LS001", Fingerprint: "a", Object: Object{Kind: "b", Name: "c"}, Message: "d"}}}).Bytes())
	f.Add([]byte(`{"version": 1, "findings": [{"fingerprint": ""}]}`))
	f.Add([]byte(`{"version": 2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBaseline(data)
		if err != nil {
			return
		}
		again, err := ParseBaseline(b.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
			t.Fatalf("%s is read as %s, %v", b.Bytes(), again.Bytes(), err)
		}
		r := Report{Findings: []Finding{{Rule: "LS001", Fingerprint: "a"}}}
		r.Apply(b)
		if len(r.Findings)+len(r.Suppressed) != 1 {
			t.Fatalf("a finding was lost: %+v", r)
		}
	})
}

package fs

import (
	"errors"
	iofs "io/fs"
	"testing"
)

// A link that is reported as taken because it was made by the same request before is a success; any other is not.
func TestRepeatedLink(t *testing.T) {
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"ours", "theirs"} {
		if err := s.writeFile(staging+"/"+private, []byte("the same data")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.link(staging+"/ours", "x"); err != nil {
			t.Errorf("our link: %v", err)
		}
	}
	if err := s.link(staging+"/theirs", "x"); !errors.Is(err, iofs.ErrExist) {
		t.Errorf("link over ours: %v, want ErrExist", err)
	}
}

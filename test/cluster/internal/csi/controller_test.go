//go:build linux

package csi

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPage(t *testing.T) {
	for name, tc := range map[string]struct {
		n, most     int
		token       string
		first, last int
		next        string
	}{
		"all":             {n: 5, last: 5},
		"first page":      {n: 5, most: 2, last: 2, next: "2"},
		"middle":          {n: 5, most: 2, token: "2", first: 2, last: 4, next: "4"},
		"last page":       {n: 5, most: 2, token: "4", first: 4, last: 5},
		"exactly full":    {n: 4, most: 2, token: "2", first: 2, last: 4},
		"rest":            {n: 5, token: "3", first: 3, last: 5},
		"nothing":         {n: 0, most: 2},
		"beyond deletion": {n: 3, most: 2, token: "3", first: 3, last: 3},
	} {
		t.Run(name, func(t *testing.T) {
			first, last, next, err := page(tc.n, tc.token, tc.most)
			if err != nil || first != tc.first || last != tc.last || next != tc.next {
				t.Errorf("got %d, %d, %q, %v; want %d, %d, %q", first, last, next, err, tc.first, tc.last, tc.next)
			}
		})
	}
	for _, token := range []string{"x", "-1", "6"} {
		if _, _, _, err := page(5, token, 0); status.Code(err) != codes.Aborted {
			t.Errorf("token %q: %v, want Aborted", token, err)
		}
	}
}

func TestFileNameStaysInThePool(t *testing.T) {
	for _, id := range []string{"../../etc", "a/b", "..", "x/../../y"} {
		if got := (&pool{dir: "/pool"}).path(volumes, id); len(got) <= len("/pool/volumes/") || got[:14] != "/pool/volumes/" {
			t.Errorf("%q leads to %q", id, got)
		}
	}
}

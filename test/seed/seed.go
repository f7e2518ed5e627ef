// Package seed chooses the random worlds that tests look at.
package seed

import (
	"os"
	"strconv"
	"testing"
)

// First is the seed that a test begins with. It is the same every time, so that a test that passed fails only for what was changed since.
// A number in LOCKSTEP_TEST_SEED has the tests look at other worlds, and brings one back that was logged.
func First(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(1)
	if given := os.Getenv("LOCKSTEP_TEST_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("LOCKSTEP_TEST_SEED=%s is not a number: %v", given, err)
		}
	}
	t.Logf("LOCKSTEP_TEST_SEED=%d", seed)
	return seed
}

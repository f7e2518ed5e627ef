package reader

import (
	"testing"

	"filippo.io/age"
)

// CheckVault fails the test with whatever is wrong with the Vault in dir, and returns what Check reports of it.
func CheckVault(t testing.TB, dir string, identities ...age.Identity) Report {
	t.Helper()
	report, err := Check(dir, identities...)
	if err != nil {
		t.Errorf("the vault in %s is not what docs/vault-format.md says:\n%v", dir, err)
	}
	return report
}

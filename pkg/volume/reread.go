package volume

// twice reads something of the Vault and, where it is found damaged, once more: from the store itself, past any cache. What was
// altered on the way, or in a cache, is no damage to the Vault.
func twice[T any](v *Vault, read func(*Vault) (T, error)) (T, error) {
	got, err := read(v)
	if !damaged(err) {
		return got, err
	}
	got, err = read(v.uncached())
	if err == nil {
		v.reread.Add(1)
	}
	return got, err
}

// Reread tells how often, since the Vault was opened, something was found altered when it was read and good when it was read once
// more: a network, a store or a cache that alters what passes through it.
func (v *Vault) Reread() int64 { return v.reread.Load() }

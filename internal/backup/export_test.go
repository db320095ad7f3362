package backup

// SetWalked calls f with the path of each entry that walks give from
// now on, before the next one is looked at, until restore is called.
func SetWalked(f func(path string)) (restore func()) {
	walked = f
	return func() { walked = nil }
}

// Package index finds the chunks of a vault by name: in the segments that the store has, of which
// the host keeps copies on its disk, and in the rows that one writer adds.
//
// Internal/vault opens an Index for each of its writers, merges and checks the segments, and tells
// this package the store, the keys of objects and the ciphers (Place). No restore needs the index:
// damage and a full disk cost the storing of chunks a second time, and nothing else. Merging needs
// no lock. The package starts goroutines only inside a call, and waits for them. FORMAT.md of
// internal/vault describes the bytes of a segment.
package index

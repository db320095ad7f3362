// Package e2e tests the programs as their users have them: the real binaries, real containers, a
// real file system with snapshots, a real object store, and a control plane that answers over TLS.
//
// It has no code of its own outside its tests.
package e2e

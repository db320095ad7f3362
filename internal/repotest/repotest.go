// Package repotest holds the tests of the repository over itself: which
// package may import which, where each foreign module has its home, and
// what no file may say. It has no code of its own; nobody imports it.
package repotest

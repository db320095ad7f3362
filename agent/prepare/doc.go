// Package prepare decides about a command to prepare an instance, by the volumes that lie on the
// host: the instance is ready as it is, or is restored, or the command is refused.
//
// agent/job gathers the Facts and carries out the Decision. Decide is a pure function: the same
// facts give the same decision, and nothing on the host is looked at or touched. A test of this
// package goes through all combinations of facts and writes agent/PREPARE.md.
package prepare

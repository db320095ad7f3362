// Package journal keeps the records of agent/model in one file of the host: tasks, jobs, the
// reports that the control plane has not acknowledged (the outbox), and the knowledge about the
// content of volumes.
//
// The journal is the only truth about a job. Each method is one transaction, so that a crash
// leaves either all of its writes or none, and a method that returns nil is durable. No caller
// sees a transaction: a caller that has to decide by a record gets a Record, and returns an error
// to stop the write. The package knows the rules of the records (the order of the states, and the
// traces of a finished job), and nothing about hosts, instances or stores; agent/job acts.
//
// Writable starts one goroutine for each look whether the file can be written; it ends with the
// write. Package journaltest changes records by hand, for tests.
package journal

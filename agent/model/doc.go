// Package model has the records of the agent: tasks, jobs and their states, backups, restores,
// kept content and reports. The other packages of the agent share these types, so that each fact
// has one name and nobody copies fields.
//
// A record says of itself what follows from its fields alone. The package reads no clock, opens
// no file and starts no goroutine; agent/journal keeps the records, and agent/job moves jobs from
// one state to the next. Values may be read from many goroutines while nobody writes to them.
package model

// Package agent is the daemon: it owns every goroutine and every resource, opens them in order, runs
// until its context ends, drains, and closes in reverse order.
package agent

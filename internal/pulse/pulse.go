// Package pulse tells how far something is, for as long as it works.
//
// The pipelines call it. Each call starts one goroutine, which the
// function that it returns waits for.
package pulse

import (
	"time"

	"holdfast/internal/contain"
)

// Every calls tell once in d, from one goroutine, until the returned function is
// called, which waits for a call under way and makes the last one itself. It must
// be called once, and panics when a call of tell has. A nil tell does nothing.
func Every(d time.Duration, tell func()) (stop func()) {
	if tell == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	var failed error // written before ended is closed
	go func() {
		defer close(ended)
		failed = contain.Call(func() error {
			t := time.NewTicker(d)
			defer t.Stop()
			for {
				select {
				case <-t.C:
					tell()
				case <-done:
					return nil
				}
			}
		})
	}()
	return func() {
		close(done)
		<-ended
		if failed != nil {
			panic(failed)
		}
		tell()
	}
}

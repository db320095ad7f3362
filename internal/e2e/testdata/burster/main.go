// Command burster is a test's instance that writes 20 MB/s all the time: blocks over a
// file of bulk, and every tenth of a second a record that is made durable before it is
// printed, with the longest time between two writes since the record before (in ms).
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

const (
	block   = 1 << 20
	perTick = 2 // blocks every tenth of a second
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	bulk, err := os.OpenFile("/data/bulk", os.O_WRONLY, 0)
	must(err)
	info, err := bulk.Stat()
	must(err)
	records, err := os.OpenFile("/data/records", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	content := make([]byte, block)
	source := rand.NewChaCha8([32]byte{})
	// An instance that is backed up in rounds rewrites some places
	// more than others: a sixteenth of the bulk.
	places := max(info.Size()/block/16, 1)
	last := time.Now()
	for n := 0; ; n++ {
		var gap time.Duration
		for range perTick {
			_, _ = source.Read(content)
			_, err := bulk.WriteAt(content, rand.Int64N(places)*block)
			must(err)
			now := time.Now()
			gap, last = max(gap, now.Sub(last)), now
		}
		_, err := fmt.Fprintln(records, n)
		must(err)
		must(records.Sync())
		fmt.Printf("%d %d\n", n, gap.Milliseconds())
		time.Sleep(100 * time.Millisecond)
	}
}

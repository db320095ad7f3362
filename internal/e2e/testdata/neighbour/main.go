// Command neighbour is other work on a host: every 10 ms it hashes 4
// KiB, and prints how much later than it should that was done, in µs.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"time"
)

func main() {
	work := make([]byte, 4096)
	out := bufio.NewWriter(os.Stdout)
	next := time.Now()
	for n := 0; ; n++ {
		next = next.Add(10 * time.Millisecond)
		time.Sleep(time.Until(next))
		sum := sha256.Sum256(work)
		work[n%len(work)] = sum[0]
		late := time.Since(next)
		fmt.Fprintln(out, late.Microseconds())
		if late > 10*time.Millisecond {
			next = time.Now()
		}
		if n%10 == 0 {
			out.Flush()
		}
	}
}

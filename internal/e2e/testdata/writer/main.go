// Command writer is the program of a test's instance: it appends numbered records
// to a file of its volume, each made durable before its number is printed.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	f, err := os.OpenFile("/data/records", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	for n := 0; ; n++ {
		if _, err := fmt.Fprintf(f, "%d\n", n); err != nil {
			panic(err)
		}
		if err := f.Sync(); err != nil {
			panic(err)
		}
		fmt.Println(n)
		time.Sleep(2 * time.Millisecond)
	}
}

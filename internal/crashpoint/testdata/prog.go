// Command prog hits one point three times and prints a digit after each.
package main

import (
	"fmt"

	"holdfast/internal/crashpoint"
)

func main() {
	for i := 1; i <= 3; i++ {
		crashpoint.Hit(crashpoint.Freeze + crashpoint.Before)
		fmt.Print(i)
	}
}

package retention

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxSpan keeps a span far from the greatest duration.
const MaxSpan = 100 * 365 * day

const day = 24 * time.Hour

// spanUnits are the units of a span that a duration of Go does not know, in days.
var spanUnits = map[string]int64{"d": 1, "w": 7, "y": 365}

// ParseSpan reads a span of time: a number of days (d), weeks (w) or years of 365 days (y), or a
// duration as Go writes it (90m, 36h). A span is at most MaxSpan and never negative.
func ParseSpan(text string) (time.Duration, error) {
	for unit, days := range spanUnits {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			if most := int64(MaxSpan / day); err != nil || n < 0 || n > most || n*days > most {
				return 0, errors.New("must be a number of days, weeks or years up to 100 years, such as 30d, 8w or 2y")
			}
			return time.Duration(n*days) * day, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > MaxSpan {
		return 0, errors.New("must be a span of time up to 100 years, such as 36h, 30d, 8w or 2y")
	}
	return d, nil
}

// FormatSpan writes a span as ParseSpan reads it: in days where it has no other part.
func FormatSpan(d time.Duration) string {
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

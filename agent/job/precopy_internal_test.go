package job

import (
	"testing"
	"time"

	"holdfast/agent/model"
)

func TestAnotherRoundFollowsWhileItHelps(t *testing.T) {
	p := Precopy{Rounds: 4, Enough: 100, Time: time.Minute, Bytes: 10_000}
	read := func(figures ...uint64) (rounds []model.Round) {
		for _, n := range figures {
			rounds = append(rounds, model.Round{Read: n, Seconds: 1})
		}
		return rounds
	}
	for name, c := range map[string]struct {
		rounds []model.Round
		want   bool
	}{
		"the first had much":          {read(5000), true},
		"the first had little":        {read(100), false},
		"shrinking":                   {read(5000, 1000), true},
		"shrinking, and now little":   {read(5000, 1000, 90), false},
		"hardly shrinking":            {read(1000, 800), false},
		"growing":                     {read(1000, 2000), false},
		"as many rounds as there are": {read(5000, 1000, 500, 300), false},
		"as many bytes as there are":  {read(9000, 1000), false},
		"as long as it may take":      {[]model.Round{{Read: 5000, Seconds: 61}}, false},
	} {
		if got := p.more(c.rounds); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

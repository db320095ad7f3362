package pulse_test

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/pulse"
)

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		stop := pulse.Every(time.Second, func() { n++ })
		time.Sleep(3*time.Second + time.Millisecond)
		synctest.Wait()
		if n != 3 {
			t.Errorf("%d calls in three seconds", n)
		}
		stop()
		if n != 4 {
			t.Errorf("%d calls with the last", n)
		}
		pulse.Every(time.Second, nil)()
	})
}

package retention

import "fmt"

// ShareError says that a run would forget more than a share of the backups of an instance, or of
// the vault where Instance is "".
type ShareError struct {
	Instance   string
	Forget, Of int
	Percent    float64 // the share
}

func (e *ShareError) Error() string {
	of := "the vault"
	if e.Instance != "" {
		of = "instance " + e.Instance
	}
	return fmt.Sprintf("the rules would forget %d of the %d backups of %s, which is more than %g %%", e.Forget, e.Of, of, e.Percent)
}

// CheckShare returns a *ShareError where the verdicts, by instance, forget more than that
// percentage of the backups of any instance, or of all of them.
func CheckShare(verdicts map[string][]Verdict, percent float64) error {
	var forget, of int
	var worst *ShareError
	for instance, all := range verdicts {
		n := 0
		for _, v := range all {
			if !v.Keep {
				n++
			}
		}
		forget, of = forget+n, of+len(all)
		e := &ShareError{instance, n, len(all), percent}
		if e.over() && (worst == nil || e.share() > worst.share() || e.share() == worst.share() && instance < worst.Instance) {
			worst = e
		}
	}
	if worst != nil {
		return worst
	}
	if e := (&ShareError{"", forget, of, percent}); e.over() {
		return e
	}
	return nil
}

func (e *ShareError) over() bool { return float64(e.Forget)*100 > float64(e.Of)*e.Percent }

func (e *ShareError) share() float64 { return float64(e.Forget) / float64(e.Of) }

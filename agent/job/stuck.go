package job

import "time"

// lendAfter is how long an act that lets an instance go has to fail before the job lends its turns to others: some tries, so that an engine that is
// just restarting lets no more instances stand still than limits.held says.
const lendAfter = time.Minute

// lendStuck lends the job's turns once the act has failed since the time given for as long as lendAfter.
func (w *worker) lendStuck(since time.Time) {
	if time.Since(since) >= lendAfter {
		w.hold.lend()
		w.ticket.lend()
	}
}

// reclaim ends what lendStuck did: the job goes on.
func (w *worker) reclaim() {
	w.hold.reclaim()
	w.ticket.reclaim()
}

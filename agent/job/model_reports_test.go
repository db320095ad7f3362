package job_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"holdfast/agent/model"
	"holdfast/agent/report"
)

// The other side of reports in the model: a control plane, and whoever answers in its place.

// answerBodies are bodies of answers: the control plane's form, and pages of other servers.
var answerBodies = []string{
	"", `{"error_code":"0","error_msg":"OK"}`, `{"error_code":"KOOPHONE.API.1000","error_msg":"no"}`, `{"error_code":0}`, "<h1>Welcome to nginx!</h1>",
	"default backend - 404", `{"error_code":"APIG.0101","error_msg":"The API does not exist"}`, `{"status":"UP"}`, "null", "{", `[{"error_code":"0"}]`,
}

// answer is the answer to a report. It checks the order of the reports.
func (m *hostModel) answer(e model.Event) (string, error) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	switch {
	case m.plane == "away":
		return "", errors.New("no answer")
	case m.plane == "refuses" && e.Type == model.EventCompleted:
		return m.refuse(e, report.Answer{Status: 410, Body: []byte(`{"error_code":"KOOPHONE.API.1000","error_msg":"no"}`)})
	case m.plane != "anyone":
		m.take(e)
		return "", nil
	}
	// The control plane may take the report although its answer is lost.
	own := []byte(`{"error_code":"0","error_msg":"OK"}`)
	switch m.other.IntN(6) {
	case 0: // it takes the event
		m.take(e)
		return judged(e, pick(m.other,
			report.Answer{Status: 204}, report.Answer{Status: 200, Body: own}, report.Answer{Status: 200, Header: http.Header{"Ce-Id": {e.ID}}},
			report.Answer{Status: 409, Body: []byte(`{"error_code":"KOOPHONE.API.1000","error_msg":"I have it","data":{"id":"` + e.ID + `"}}`)},
		))
	case 1: // and its answer is lost, or replaced on the way
		m.take(e)
		return judged(e, m.stranger())
	case 2:
		return m.refuse(e, report.Answer{Status: pick(m.other, 400, 409, 410, 422), Body: []byte(`{"error_code":"KOOPHONE.API.9999","error_msg":"no"}`)})
	case 3:
		return "", errors.New("connection reset by peer")
	}
	return judged(e, m.stranger())
}

// stranger answers in the place of the control plane: with any status
// and body, except an answer that only the control plane gives.
func (m *hostModel) stranger() report.Answer {
	for {
		a := report.Answer{Status: 200 + m.other.IntN(400), Body: []byte(pick(m.other, answerBodies...))}
		if m.other.IntN(2) == 0 {
			a.Status = pick(m.other, 200, 201, 202, 301, 302, 400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504)
		}
		if m.other.IntN(8) == 0 {
			a.Broken = errors.New("unexpected EOF")
		}
		own := a.Broken == nil && strings.HasPrefix(string(a.Body), `{"error_code":"0"`) && a.Status == 200 ||
			a.Broken == nil && strings.Contains(string(a.Body), "KOOPHONE") && slices.Contains([]int{400, 409, 410, 422}, a.Status)
		if a.Status != 204 && !own {
			return a
		}
	}
}

func judged(e model.Event, a report.Answer) (refusal string, err error) {
	verdict, err := report.Judge(a, e.ID, false)
	switch verdict {
	case report.Acknowledged:
		return "", nil
	case report.Refused:
		return err.Error(), nil
	}
	return "", err
}

// refuse is a control plane that will never take the event. The lock is held.
func (m *hostModel) refuse(e model.Event, a report.Answer) (string, error) {
	if e.Seq != 0 {
		m.refused[e.Seq] = true
	}
	return judged(e, a)
}

// take is a control plane that has the event. The lock is held.
func (m *hostModel) take(e model.Event) {
	m.took[e.Job+" "+e.Type] = true
	switch {
	case e.Seq == 0 || e.Seq == m.lastSeq[e.Instance]:
		return // progress, or sent again because the answer was lost
	case m.refused[e.Seq]:
		return // sent again by an operator, later than it was its turn
	case e.Seq < m.lastSeq[e.Instance]:
		m.w.fault("order: %s of %s has number %d, after %d", e.Type, e.Instance, e.Seq, m.lastSeq[e.Instance])
	}
	m.lastSeq[e.Instance] = e.Seq
	told := m.told[e.Job]
	if n := len(told); n > 0 && (slices.Contains([]string{model.EventReleased, model.EventResumed, model.EventFailed}, told[n-1]) || e.Type == model.EventStarted) {
		m.w.fault("order: job %s tells %s after %v", e.Job, e.Type, told)
	}
	m.told[e.Job] = append(told, e.Type)
}

// kept looks whether the report for which an instance is held is
// among the refused ones. The lock is held.
func (m *hostModel) kept(j *model.Job) {
	all, err := m.l.j.Refused()
	if err != nil || !slices.ContainsFunc(all, func(r model.Refused) bool { return r.Seq == j.ReportSeq }) {
		m.w.fault("job %s is held for report %d, which is not among the refused ones (%v)", j.ID, j.ReportSeq, err)
	}
}

// lookAfterReports is an operator who gives up a report that waits,
// sends a refused one again, or drops it.
func (m *hostModel) lookAfterReports() {
	if waiting, err := m.l.m.Waiting(); err == nil && len(waiting) > 0 && m.r.IntN(3) == 0 {
		seq := pick(m.r, waiting...).Seq
		m.lock(func() { m.refused[seq] = true })
		var err error
		done := make(chan struct{})
		go func() { // of its own, which a death at a crash point ends
			defer close(done)
			err = m.l.m.GiveUp(seq)
		}()
		<-done
		m.allowed("give a report up", err)
		return
	}
	all, err := m.l.j.Refused()
	if err != nil || len(all) == 0 {
		return
	}
	if r := pick(m.r, all...); m.r.IntN(3) == 0 {
		m.allowed("drop a report", m.l.m.DropRefused(r.Seq))
	} else {
		m.allowed("send a report again", m.l.m.RetryRefused(r.Seq))
	}
}

// retryAll sends every refused report again.
func (m *hostModel) retryAll() {
	all, err := m.l.j.Refused()
	if err != nil {
		m.fault("%v", err)
	}
	for _, r := range all {
		m.allowed("send a report again", m.l.m.RetryRefused(r.Seq))
	}
}

package agent

import (
	"context"
	"errors"
	"strconv"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

const (
	// reportsPoll is how often the journal is looked at for new
	// events: one look at a page in memory.
	reportsPoll = 500 * time.Millisecond
	// reportsAlive is how often a reader gets a sign of life when nothing happens.
	reportsAlive = 15 * time.Second
	// reportsBatch bounds the events in memory for one reader.
	reportsBatch = 100
)

// Reports implements api.Service. The journal keeps the last events, delivered or
// not, so that a reader that was away, also while the agent was, misses none of them.
func (s *service) Reports(ctx context.Context, c model.Caller, after *uint64, send func(api.ReportEvent) error) error {
	_, oldest, newest, err := s.a.journal.Recent(0, 0)
	if err != nil {
		return err
	}
	last := newest
	if after != nil {
		last = *after
		// The caller's last event is older than all kept events, or of a journal that is gone.
		if last > newest || last+1 < oldest {
			last = max(oldest, 1) - 1
			if err := send(api.ReportEvent{Seq: last, Type: api.ReportGap}); err != nil {
				return err
			}
		}
	}
	if err := send(api.ReportEvent{}); err != nil { // the status goes out, before anything happens
		return err
	}
	poll, alive := time.NewTicker(reportsPoll), time.NewTicker(reportsAlive)
	defer poll.Stop()
	defer alive.Stop()
	for {
		events, _, _, err := s.a.journal.Recent(last, reportsBatch)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Seq > last+1 { // this reader was too slow
				if err := send(api.ReportEvent{Seq: e.Seq - 1, Type: api.ReportGap}); err != nil {
					return err
				}
			}
			last = e.Seq
			if !c.SeesAll() {
				if !c.Sees(e.Tenant) {
					continue
				}
				e.Data = s.a.dataForTenant(e.Data)
			}
			err := send(api.ReportEvent{
				Seq: e.Seq, Type: e.Type, ID: e.ID, Time: e.Time, InstanceID: e.Instance, TaskID: e.Task, JobID: e.Job, Data: e.Data,
			})
			if err != nil {
				return err
			}
		}
		if len(events) == reportsBatch {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
			if err := send(api.ReportEvent{}); err != nil {
				return err
			}
		case <-poll.C:
		}
	}
}

// RefusedReports implements api.Service.
func (s *service) RefusedReports(context.Context, model.Caller) ([]api.RefusedReport, error) {
	refused, err := s.a.manager.Refused()
	if err != nil {
		return nil, err
	}
	waiting, err := s.a.manager.Waiting()
	if err != nil {
		return nil, err
	}
	list := make([]api.RefusedReport, 0, len(refused)+len(waiting))
	add := func(e model.Event, at time.Time, why string) {
		list = append(list, api.RefusedReport{
			Number: e.Seq, ID: e.ID, Type: e.Type, Time: e.Time, InstanceID: e.Instance, TaskID: e.Task, JobID: e.Job, Refused: at, Reason: why,
		})
	}
	for _, r := range refused {
		add(r.Event, r.Since, r.Reason)
	}
	for _, e := range waiting {
		add(e, time.Time{}, s.a.watcher.whyWaits(e.Instance))
	}
	return list, nil
}

// GiveUpReport implements api.Service.
func (s *service) GiveUpReport(_ context.Context, _ model.Caller, number uint64) error {
	return onRefused(number, s.a.manager.GiveUp)
}

// RetryReport implements api.Service.
func (s *service) RetryReport(_ context.Context, _ model.Caller, number uint64) error {
	return onRefused(number, s.a.manager.RetryRefused)
}

// DropReport implements api.Service.
func (s *service) DropReport(_ context.Context, _ model.Caller, number uint64) error {
	return onRefused(number, s.a.manager.DropRefused)
}

func onRefused(number uint64, do func(uint64) error) error {
	err := do(number)
	switch {
	case errors.Is(err, model.ErrNotFound):
		return api.UnknownReport(strconv.FormatUint(number, 10))
	case errors.Is(err, model.ErrState):
		return api.Refuse(api.CodeParameter, "number: an instance is held for report %d; resume the instance, release it, or send the report again", number)
	}
	return err
}

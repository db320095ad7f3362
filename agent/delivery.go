package agent

import (
	"fmt"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/report"
)

func (a *Agent) openReports(opened func(func() error)) error {
	r := a.cfg.Report
	var err error
	if a.client, err = report.NewClient(r.CAFile, r.Timeout); err != nil {
		return fmt.Errorf("report.ca_file: %w", err)
	}
	opened(func() error { a.client.CloseIdleConnections(); return nil })
	a.deliverer, err = report.New(outbox{a.manager, a.standing.Allowed}, report.Options{
		URL: r.URL, Source: "urn:holdfast:host:" + a.cfg.HostID + ":" + a.self.Identity.ID, Client: a.client, TokenFile: r.TokenFile,
		UserAgent: "holdfast/" + a.version, Timeout: r.Timeout, Any2xx: r.Acknowledge == config.AcknowledgeAny2xx, Batch: r.Batch,
		Attempted: a.watcher.Attempted, Away: a.watcher.Away,
	})
	if err != nil {
		return fmt.Errorf("report.url: %w", err)
	}
	if r.Acknowledge == config.AcknowledgeAny2xx {
		a.log.Warn("report.acknowledge is any-2xx: whoever answers at report.url with a status from 200 to 299 acknowledges reports, and so releases instances")
	}
	return nil
}

// outbox is the manager's outbox as agent/report wants it. It
// shows nothing while the agent stands still.
type outbox struct {
	m       *job.Manager
	allowed func() error
}

func (o outbox) Heads(limit int, skip func(string) bool) ([]model.Event, error) {
	if o.allowed() != nil {
		return nil, nil
	}
	return o.m.Heads(limit, skip)
}

func (o outbox) TakeProgress(limit int, skip func(string) bool) ([]model.Event, error) {
	if o.allowed() != nil {
		return nil, nil
	}
	return o.m.TakeProgress(limit, skip)
}

func (o outbox) Acknowledge(seqs ...uint64) error       { return o.m.Acknowledge(seqs...) }
func (o outbox) Refuse(seq uint64, reason string) error { return o.m.Refuse(seq, reason) }
func (o outbox) Changed() <-chan struct{}               { return o.m.OutboxChanged() }

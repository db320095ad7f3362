package observe

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/audit"
	"holdfast/agent/config"
	"holdfast/agent/metrics"
)

// unknownEvery is how often a call of an unknown caller gets a line in
// the audit log. The calls between are only counted, so that a caller
// without a token can't fill the log and so push out its lines.
const unknownEvery = time.Second

// Auditor writes commands to the audit log. Its methods may be called from many goroutines.
type Auditor struct {
	log     *slog.Logger
	metrics *metrics.Metrics
	file    *audit.Log
	fault   func(error) // is told whether the last command is in the log

	mu       sync.Mutex
	unknown  time.Time // of the last line of a caller that nobody knew
	unlisted uint64
	stays    bool // the latest line is in a file that is full
}

// OpenAudit opens the audit log that the configuration names. fault is told after each command
// whether the command is in the log.
func OpenAudit(cfg config.Audit, log *slog.Logger, m *metrics.Metrics, fault func(error)) (*Auditor, error) {
	file, err := audit.Open(cfg.File, audit.Options{MaxBytes: int64(cfg.MaxSize), Keep: cfg.Keep})
	if err != nil {
		return nil, err
	}
	a := &Auditor{log: log, metrics: m, file: file, fault: fault}
	if aside := file.Aside(); aside != "" {
		log.Error("the audit log was damaged; a new chain begins", KeyError, aside)
	}
	a.head("audit log opened")
	return a, nil
}

// head notes the end of the chain in the agent's own log, which is kept
// elsewhere: with it, a log that was cut off or written anew shows.
func (a *Auditor) head(message string) { a.log.Info(message, "head", a.file.Head().String()) }

// Command writes one line before the command is answered. Where that
// fails, the command is answered all the same: it is in the journal,
// and an agent that stops for a full disk would hold instances for it.
func (a *Auditor) Command(e api.Exchange) {
	if a == nil {
		return
	}
	line := audit.Entry{
		Time: e.Start, From: e.Remote, Via: e.Caller.Via, Role: string(e.Caller.Role), Tenant: e.Caller.Tenant, User: e.Caller.User,
		Call: e.Method + " " + e.Route, RequestID: e.RequestID, Instances: e.Instances, Task: e.Task,
		Status: e.Status, Code: e.Code, Reference: e.Reference,
	}
	if e.Report != 0 {
		line.Call = strings.Replace(line.Call, "{number}", strconv.FormatUint(e.Report, 10), 1)
	}
	if e.Vault != "" {
		line.Call = strings.Replace(line.Call, "{tenant}", e.Vault, 1)
	}
	// the other end of a unix socket has no name
	if line.From == "" || strings.HasPrefix(line.From, "@") {
		line.From = "socket"
	}
	a.mu.Lock()
	if line.Role == "" {
		if e.Start.Sub(a.unknown) < unknownEvery {
			a.unlisted++
			a.mu.Unlock()
			return
		}
		a.unknown = e.Start
	}
	line.Unlisted, a.unlisted = a.unlisted, 0
	a.mu.Unlock()
	rotated, err := a.file.Append(line)
	a.fault(err)
	a.turned(err)
	if err != nil && !errors.Is(err, audit.ErrNotRotated) {
		a.metrics.AuditFailed()
		a.log.Error("a command is not in the audit log", "request_id", e.RequestID, "call", line.Call, "code", e.Code, KeyError, err.Error())
	}
	if rotated {
		a.head("audit log began a new file")
	}
}

// turned tells when a full file can't be followed by a new one, once, and when that works again.
func (a *Auditor) turned(err error) {
	fails := errors.Is(err, audit.ErrNotRotated)
	a.mu.Lock()
	changed := fails != a.stays
	a.stays = fails
	a.mu.Unlock()
	switch {
	case changed && fails:
		a.log.Error("the audit log goes on in a file that is full, as no new one can be begun", KeyError, err.Error())
	case changed && err == nil:
		a.log.Info("the audit log begins new files again")
	}
}

// Close closes the log. No command is written after that.
func (a *Auditor) Close() error {
	a.head("audit log closed")
	return a.file.Close()
}

// Package metrics counts the agent's work, and serves the counts with the two health checks.
//
// One Metrics owns one registry; nothing is registered globally, so that tests and several agents
// in one process do not meet. Package agent calls the methods from the observers of lower layers.
// The package starts no goroutine; counts are lost with the process, as Prometheus expects.
//
// Names, labels and units are an interface: the dashboard and the alert rules are
// written to them. Labels take few values: nothing is labelled with an instance, a
// tenant or a path, which would also tell every reader of the page about tenants.
package metrics

import (
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Results of a job, as label values. Others are counted under "other".
const (
	ResultSuccess  = "success"
	ResultFailed   = "failed"
	ResultCanceled = "canceled"
)

// Results of a request to the object store. A missing object is often the expected answer.
const (
	StoreOK       = "ok"
	StoreNotFound = "not_found"
	StoreError    = "error"
)

// The places in which panics are contained.
const (
	PanicJob    = "job"    // a job, or what goes on beside the jobs for them
	PanicCall   = "call"   // a call of the API
	PanicLookup = "lookup" // a question to IAM
	PanicReport = "report" // the delivery of a report
	PanicLoop   = "loop"   // a loop of the agent's, which begins again
)

// apiCode begins the contract's error codes.
const apiCode = "KOOPHONE.API."

// labelOther stands for a value that is not of the known ones: a
// caller's mistake must not make a series for each id that it passes.
const labelOther = "other"

// The values that labels take; anything else becomes labelOther.
var (
	kinds   = set("backup", "restore")
	results = set(ResultSuccess, ResultFailed, ResultCanceled)
	ops     = set("put", "put_new", "read", "stat", "list", "delete", "extend_lock")
	answers = set(StoreOK, StoreNotFound, StoreError)
	faults  = set("slow_down", "unavailable", "canceled", "exists", "no_bucket", "no_keys", "wrong_keys", "expired_keys", "clock_skew",
		"access", "policy", "kms", "proxy", "no_host", "no_money", "quota", "no_space", "cold", "damaged_on_way", "odd", "wrong_region", "usage")
	lookups = set("valid", "refused", "unavailable", "not_asked")
	panics  = set(PanicJob, PanicCall, PanicLookup, PanicReport, PanicLoop)
	codes   = set("0", apiCode+"0000", apiCode+"0002", apiCode+"0005", apiCode+"1000", apiCode+"1001", apiCode+"1012",
		apiCode+"2005", apiCode+"2006", apiCode+"4001", apiCode+"5005", apiCode+"9999", "HOLDFAST.API.9001", "HOLDFAST.API.9002")
)

// Buckets in seconds. Freezes are felt by users from tenths of a second and end with the
// deadline of an hour; stages reach from a snapshot's milliseconds to an upload's hours.
var (
	freezeBuckets = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}
	stageBuckets  = []float64{0.01, 0.1, 1, 5, 15, 60, 300, 900, 3600, 14400}
	storeBuckets  = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
)

// Metrics holds every metric of an agent. All methods may be called from
// any number of goroutines, and on a nil *Metrics, which counts nothing.
type Metrics struct {
	registry *prometheus.Registry
	stages   map[string]bool

	jobs         *prometheus.CounterVec
	jobsActive   prometheus.Gauge
	queue        prometheus.Gauge
	read         prometheus.Counter
	uploaded     prometheus.Counter
	compressed   *prometheus.CounterVec
	deduplicated prometheus.Counter
	restored     prometheus.Counter
	stage        *prometheus.HistogramVec
	freeze       prometheus.Histogram
	frozen       prometheus.Gauge
	lastSuccess  *prometheus.GaugeVec
	reports      prometheus.Counter
	retries      prometheus.Counter
	pending      prometheus.Gauge
	refused      prometheus.Counter
	refusedKept  prometheus.Gauge
	storeReqs    *prometheus.CounterVec
	storeBytes   *prometheus.CounterVec
	storeRetries *prometheus.CounterVec
	storeFaults  *prometheus.CounterVec
	storeSeconds *prometheus.HistogramVec
	apiRequests  *prometheus.CounterVec
	iamLookups   *prometheus.CounterVec
	panics       *prometheus.CounterVec
	certificate  prometheus.Gauge
	audit        prometheus.Counter
	drifts       prometheus.Counter
	forks        prometheus.Counter
	damagedPacks prometheus.Counter
	backupsGone  prometheus.Counter
	pace         prometheus.Gauge
	bases        prometheus.Gauge
	warnings     prometheus.Counter
	info         *prometheus.GaugeVec
	start        prometheus.Gauge

	sight sight
}

// Options of New.
type Options struct {
	Version string    // of the build
	Started time.Time // of the agent
	Stages  []string  // what StageTook and Look take; another stage is counted under "other"
	// Troubles are the names of the states in which a human must act,
	// as Look takes them; another name is counted under "other".
	Troubles []string
	Process  bool // also show the operating system's and the Go runtime's figures of the process
}

// New makes the metrics of an agent, all at zero.
func New(o Options) *Metrics {
	m := &Metrics{
		registry:     prometheus.NewRegistry(),
		stages:       set(o.Stages...),
		jobs:         counterVec("jobs_total", "Jobs that ended.", "kind", "result"),
		jobsActive:   gauge("jobs_active", "Jobs at work now."),
		queue:        gauge("queue_jobs", "Jobs accepted and waiting for their turn."),
		read:         counter("read_bytes_total", "Bytes read from volumes."),
		uploaded:     counter("uploaded_bytes_total", "Bytes sent to the object store by backups, compressed and sealed."),
		compressed:   counterVec("compressed_bytes_total", "New content of backups by the level of compression that it met, bytes before compression.", "level"),
		deduplicated: counter("deduplicated_bytes_total", "Bytes read that the vault held already."),
		restored:     counter("restored_bytes_total", "Bytes of content that restores wrote to volumes."),
		stage:        histogramVec("stage_duration_seconds", "Time that jobs spent in each stage.", stageBuckets, "stage"),
		freeze: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "freeze_duration_seconds", Buckets: freezeBuckets,
			Help: "Time that instances stood still, from freeze to thaw or power-down.",
		}),
		frozen:       gauge("frozen_instances", "Instances that stand still now."),
		lastSuccess:  gaugeVec("last_success_timestamp_seconds", "When a job last succeeded, Unix time.", "kind"),
		reports:      counter("reports_acknowledged_total", "Reports that the control plane acknowledged."),
		retries:      counter("report_retries_total", "Deliveries of a report that failed and were tried again."),
		pending:      gauge("reports_pending", "Reports not acknowledged yet."),
		refused:      counter("reports_refused_total", "Reports that the control plane refused for good."),
		refusedKept:  gauge("refused_reports", "Refused reports that are kept until an operator sends them again or drops them."),
		storeReqs:    counterVec("store_requests_total", "Requests to the object store.", "op", "result"),
		storeBytes:   counterVec("store_bytes_total", "Bytes of objects sent (put) and received (read).", "op"),
		storeRetries: counterVec("store_retries_total", "Requests to the object store that were tried again.", "op"),
		storeFaults:  counterVec("store_faults_total", "Requests to the object store that failed, each try for itself, by why.", "kind"),
		storeSeconds: histogramVec("store_request_duration_seconds", "Time that requests to the object store took.", storeBuckets, "op"),
		apiRequests:  counterVec("api_requests_total", "Calls answered, by error code of the contract.", "code"),
		backupsGone:  counter("backups_gone_total", "Backups of which the store had lost a part before the power-down; their instances are held."),
		damagedPacks: counter("damaged_packs_total", "Packs of vaults that backups found missing, unreadable or damaged; their content was stored anew."),
		drifts:       counter("drifts_total", "Volumes with content that changed although its metadata did not; they were read whole."),
		forks:        counter("forks_total", "Backups that do not descend from another newest backup of their instance."),
		audit:        counter("audit_failures_total", "Commands that could not be written to the audit log."),
		certificate:  gauge("tls_certificate_expiry_seconds", "Time until the certificate that is served expires; 0 without TLS, negative afterwards."),
		pace:         gauge("precopy_pace_ratio", "Share of the time in which rounds of pre-copy work; below 1 the host is pressed."),
		bases:        gauge("base_snapshots", "Snapshots that stay on the host so that the next backup reads less."),
		iamLookups:   counterVec("iam_lookups_total", "Questions to IAM about a token, by how they ended.", "outcome"),
		panics:       counterVec("panics_total", "Faults of the program itself that were contained, by what failed.", "in"),
		warnings:     counter("warnings_total", "Things that a backup or restore could not do exactly."),
		info:         gaugeVec("build_info", "1, labelled with what was built.", "version", "goversion"),
		start:        gauge("start_timestamp_seconds", "When the agent started, Unix time."),
	}
	m.registry.MustRegister(
		m.jobs, m.jobsActive, m.queue, m.read, m.uploaded, m.compressed, m.deduplicated, m.restored, m.stage, m.freeze, m.frozen, m.lastSuccess,
		m.reports, m.retries, m.pending, m.refused, m.refusedKept, m.storeReqs, m.storeBytes, m.storeRetries, m.storeFaults, m.storeSeconds,
		m.apiRequests, m.iamLookups, m.certificate, m.audit, m.drifts, m.forks, m.damagedPacks, m.backupsGone, m.pace, m.bases, m.panics, m.warnings, m.info, m.start,
	)
	m.sight = newSight(m.registry, o)
	if o.Process {
		m.registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	}
	m.pace.Set(1)
	m.info.WithLabelValues(o.Version, runtime.Version()).Set(1)
	m.start.Set(seconds(o.Started))
	// A series that is there from the start lets an alert see its first increase.
	for kind := range kinds {
		for result := range results {
			m.jobs.WithLabelValues(kind, result)
		}
	}
	for kind := range faults {
		m.storeFaults.WithLabelValues(kind)
	}
	for outcome := range lookups {
		m.iamLookups.WithLabelValues(outcome)
	}
	for in := range panics {
		m.panics.WithLabelValues(in)
	}
	return m
}

const namespace = "holdfast"

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func histogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
}

func set(values ...string) map[string]bool {
	s := make(map[string]bool, len(values))
	for _, v := range values {
		s[v] = true
	}
	return s
}

// known gives value if the label takes it.
func known(values map[string]bool, value string) string {
	if values[value] {
		return value
	}
	return labelOther
}

// seconds gives t as Unix time; a zero time as 0.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// JobStarted counts a job that left the queue.
func (m *Metrics) JobStarted() {
	if m != nil {
		m.jobsActive.Inc()
	}
}

// JobStopped counts a job that no longer is at work: it ended, or waits for something.
func (m *Metrics) JobStopped() {
	if m != nil {
		m.jobsActive.Dec()
	}
}

// JobFinished counts a job by its kind ("backup", "restore") and result (Result
// constants). A success at the given time also moves the time of the last one.
func (m *Metrics) JobFinished(kind, result string, at time.Time) {
	if m == nil {
		return
	}
	kind = known(kinds, kind)
	m.jobs.WithLabelValues(kind, known(results, result)).Inc()
	if result == ResultSuccess {
		m.lastSuccess.WithLabelValues(kind).Set(seconds(at))
	}
}

// QueueLength says how many jobs wait.
func (m *Metrics) QueueLength(n int) {
	if m != nil {
		m.queue.Set(float64(n))
	}
}

// BytesRead counts bytes read from volumes since the last call.
func (m *Metrics) BytesRead(n uint64) {
	if m != nil {
		m.read.Add(float64(n))
	}
}

// BytesUploaded counts bytes sent to the store by backups since the last call.
func (m *Metrics) BytesUploaded(n uint64) {
	if m != nil {
		m.uploaded.Add(float64(n))
	}
}

// BytesCompressed counts the new content of a backup by its level of compression, bytes before
// compression.
func (m *Metrics) BytesCompressed(byLevel map[string]uint64) {
	if m != nil {
		for level, n := range byLevel {
			m.compressed.WithLabelValues(level).Add(float64(n))
		}
	}
}

// BytesDeduplicated counts bytes that were read and found in the vault since the last call.
func (m *Metrics) BytesDeduplicated(n uint64) {
	if m != nil {
		m.deduplicated.Add(float64(n))
	}
}

// BytesRestored counts bytes of content that restores wrote since the last call.
func (m *Metrics) BytesRestored(n uint64) {
	if m != nil {
		m.restored.Add(float64(n))
	}
}

// StageTook counts the time that a job spent in a stage.
func (m *Metrics) StageTook(stage string, d time.Duration) {
	if m != nil {
		m.stage.WithLabelValues(known(m.stages, stage)).Observe(d.Seconds())
	}
}

// InstanceFrozen counts an instance that stands still from now on.
func (m *Metrics) InstanceFrozen() {
	if m != nil {
		m.frozen.Inc()
	}
}

// InstanceThawed counts an instance that runs again or is powered
// down, and how long it stood still.
func (m *Metrics) InstanceThawed(d time.Duration) {
	if m != nil {
		m.frozen.Dec()
		m.freeze.Observe(d.Seconds())
	}
}

// SetPace says in which share of the time, 0 to 1, rounds of pre-copy work.
func (m *Metrics) SetPace(share float64) {
	if m != nil {
		m.pace.Set(share)
	}
}

// BaseSnapshots says how many snapshots stay for the next backup.
func (m *Metrics) BaseSnapshots(n int) {
	if m != nil {
		m.bases.Set(float64(n))
	}
}

// StoreRequest counts one request to the object store, each try of it for itself: its operation
// ("put", "put new", "read", "stat", "list", "delete", "extend lock"), the bytes of objects
// moved, the time it took, its result (Store constants), and whether it repeats a failed request.
func (m *Metrics) StoreRequest(op string, bytes int64, d time.Duration, result string, retry bool) {
	if m == nil {
		return
	}
	op = known(ops, strings.ReplaceAll(op, " ", "_"))
	m.storeReqs.WithLabelValues(op, known(answers, result)).Inc()
	m.storeSeconds.WithLabelValues(op).Observe(d.Seconds())
	if bytes > 0 {
		m.storeBytes.WithLabelValues(op).Add(float64(bytes))
	}
	if retry {
		m.storeRetries.WithLabelValues(op).Inc()
	}
}

// StoreFault counts a request to the object store that failed, by why (obs.Kind).
func (m *Metrics) StoreFault(kind string) {
	if m != nil {
		m.storeFaults.WithLabelValues(known(faults, kind)).Inc()
	}
}

// Leftovers shows, from now on, how many snapshots and replaced volumes could
// not be removed. It is called once; count is called from any goroutine.
func (m *Metrics) Leftovers(count func() int) {
	if m == nil {
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "leftovers", Help: "Snapshots and replaced volumes that nothing needs and that could not be removed; tried again.",
	}, func() float64 { return float64(count()) }))
}

// StoreLoad shows, from now on, how many requests to the object store
// are under way, how many wait for one to end, and how many may be
// under way. It is called once; load is called from any goroutine.
func (m *Metrics) StoreLoad(load func() (inFlight, waiting, level int)) {
	if m == nil {
		return
	}
	show := func(name, help string, of func(inFlight, waiting, level int) int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help},
			func() float64 { return float64(of(load())) }))
	}
	show("store_requests_in_flight", "Requests to the object store under way.", func(n, _, _ int) int { return n })
	show("store_requests_waiting", "Requests to the object store that wait for others to end.", func(_, n, _ int) int { return n })
	show("store_requests_level", "Requests to the object store that may be under way now.", func(_, _, n int) int { return n })
}

// StoreLimits shows, from now on, what bounds the requests to the
// object store: bytes a second up and down, and requests a second; 0
// is no limit. It is called once; limits is called from any goroutine.
func (m *Metrics) StoreLimits(limits func() (up, down int64, requests float64)) {
	if m == nil {
		return
	}
	show := func(name, help string, of func(up, down int64, requests float64) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help},
			func() float64 { return of(limits()) }))
	}
	show("store_limit_up_bytes_per_second", "Bytes a second that may go to the object store; 0 is no limit.",
		func(n, _ int64, _ float64) float64 { return float64(n) })
	show("store_limit_down_bytes_per_second", "Bytes a second that may come from the object store; 0 is no limit.",
		func(_, n int64, _ float64) float64 { return float64(n) })
	show("store_limit_requests_per_second", "Requests a second that the object store may get; 0 is no limit.",
		func(_, _ int64, n float64) float64 { return n })
}

// APIRequest counts a call that was answered with the given error code of the contract.
func (m *Metrics) APIRequest(code string) {
	if m != nil {
		m.apiRequests.WithLabelValues(known(codes, code)).Inc()
	}
}

// IAMLookup counts a question to IAM about a token by its outcome:
// "valid", "refused", "unavailable" or "not_asked".
func (m *Metrics) IAMLookup(outcome string) {
	if m != nil {
		m.iamLookups.WithLabelValues(known(lookups, outcome)).Inc()
	}
}

// Panicked counts a panic by the place that contained it: one of the Panic constants.
func (m *Metrics) Panicked(in string) {
	if m != nil {
		m.panics.WithLabelValues(known(panics, in)).Inc()
	}
}

// CertificateExpiry says how long the certificate that is served has left.
func (m *Metrics) CertificateExpiry(left time.Duration) {
	if m != nil {
		m.certificate.Set(left.Seconds())
	}
}

// Fork counts a backup that does not descend from another newest backup of its instance.
func (m *Metrics) Fork() {
	if m != nil {
		m.forks.Inc()
	}
}

// Drift counts a volume of which content had changed although the
// means by which that is known said that it had not.
func (m *Metrics) Drift() {
	if m != nil {
		m.drifts.Inc()
	}
}

// DamagedPack counts a pack of a vault that a backup found that it can't be used.
func (m *Metrics) DamagedPack() {
	if m != nil {
		m.damagedPacks.Inc()
	}
}

// BackupGone counts a backup of which the store lost a part before its instance was powered down.
func (m *Metrics) BackupGone() {
	if m != nil {
		m.backupsGone.Inc()
	}
}

// AuditFailed counts a command that could not be written to the audit log.
func (m *Metrics) AuditFailed() {
	if m != nil {
		m.audit.Inc()
	}
}

// Warnings counts what backups and restores could not do exactly since the last call.
func (m *Metrics) Warnings(n int) {
	if m != nil && n > 0 {
		m.warnings.Add(float64(n))
	}
}

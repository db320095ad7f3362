package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"holdfast/agent/model"
)

// Vaults is the part of a Service about the vaults of tenants, and how they shrink.
type Vaults interface {
	// Prune accepts one command to forget the backups of the tenant that no rule keeps, and to
	// prune the tenant's vault; it returns once the run is written down. The same requestID of the
	// same caller with the same digest gives the first answer again, with another digest an Error
	// with CodeParameter.
	Prune(ctx context.Context, c model.Caller, requestID string, digest [32]byte, tenant string, p PruneCommand) (PruneAnswer, error)
	// Vaults lists the vaults that the caller may see and that this host prunes, by tenant, each
	// with its last runs. With a tenant it lists one.
	Vaults(ctx context.Context, c model.Caller, tenant string) ([]VaultInfo, error)
}

// PruneCommand says how a vault is pruned.
type PruneCommand struct {
	DryRun      bool `json:"dry_run"`      // only count, and change nothing
	KeepAll     bool `json:"keep_all"`     // forget nothing, and only prune
	AcceptShare bool `json:"accept_share"` // forget more than retention.max_share all the same
}

// PruneAnswer is the answer to an accepted command.
type PruneAnswer struct {
	TaskID string `json:"task_id"`
}

// VaultInfo is the vault of one tenant, as far as this host knows it. Times are UTC.
type VaultInfo struct {
	Tenant string `json:"tenant"`
	Run    string `json:"run"` // retention.run of this host
	// LastPrune is when any host last ended a prune of the vault, by the clock of the store, and
	// LastHost that host.
	LastPrune time.Time  `json:"last_prune,omitzero"`
	LastHost  string     `json:"last_host,omitempty"`
	Trouble   string     `json:"trouble,omitempty"` // why a human must act
	Runs      []PruneRun `json:"runs"`              // of this host, the newest first
}

// PruneRun is one run of a prune. Times are UTC, by the clock of the host.
type PruneRun struct {
	TaskID      string    `json:"task_id"`
	Tenant      string    `json:"tenant"`
	By          string    `json:"by"`
	DryRun      bool      `json:"dry_run"`
	KeepAll     bool      `json:"keep_all"`
	AcceptShare bool      `json:"accept_share"`
	State       string    `json:"state"` // waiting, at_work, done, failed, cancelled
	Status      int       `json:"status"`
	Step        string    `json:"step,omitempty"`
	Problem     string    `json:"problem,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Accepted    time.Time `json:"accepted"`
	Began       time.Time `json:"began,omitzero"`
	Ended       time.Time `json:"ended,omitzero"`
	// Backups counts the backups that the rules judged, Forget the backups that no rule keeps, and
	// Forgotten the backups of these that were marked.
	Backups   int `json:"backups"`
	Forget    int `json:"forget"`
	Forgotten int `json:"forgotten"`
	// Needed backups stay against the rules because a host needs them, and odd ones because their
	// time can't be right; BroughtBack were forgotten before.
	Needed      int      `json:"needed"`
	Odd         int      `json:"odd"`
	OddBackups  []string `json:"odd_backups,omitempty"`
	BroughtBack int      `json:"brought_back"`
	Share       string   `json:"share,omitempty"` // of a dry run: a run would stop and ask
	Waits       []string `json:"waits_for,omitempty"`
	// DeletedBackups were forgotten for longer than retention.grace.
	DeletedBackups int   `json:"deleted_backups"`
	Packs          int   `json:"packs"`
	Bytes          int64 `json:"bytes"`
	GarbagePacks   int   `json:"garbage_packs"`
	GarbageBytes   int64 `json:"garbage_bytes"`
	DeletedPacks   int   `json:"deleted_packs"`
	DeletedBytes   int64 `json:"deleted_bytes"`
	MovedPacks     int   `json:"moved_packs"`   // sparse packs of which the needed bytes were moved; deleted, too
	MovedBytes     int64 `json:"moved_bytes"`   // of the new packs
	Locked         int   `json:"locked"`        // objects that the store locks still
	RefusedPacks   int   `json:"refused_packs"` // that the store did not delete
	MissingPacks   int   `json:"missing_packs"` // that backups name and the store does not have
}

type vaultList struct {
	Vaults []VaultInfo `json:"vaults"`
}

// tenantPattern is the form of the id of a tenant.
var tenantPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$`)

// vaultRoutes prune vaults, and tell how they are.
var vaultRoutes = []route{
	{http.MethodGet, "/v1/agent/vaults", toSee, (*handler).vaults},
	{http.MethodGet, "/v1/agent/vaults/{tenant}", toSee, (*handler).vault},
	{http.MethodPost, "/v1/agent/vaults/{tenant}/prune", toCommand, (*handler).prune},
}

// tenant gives the tenant of the path.
func (q *request) tenant() (string, error) {
	tenant := q.r.PathValue("tenant")
	if !tenantPattern.MatchString(tenant) {
		return "", Refuse(CodeParameter, "tenant: must be 1 to 128 of A-Z a-z 0-9 . _ : @ - and begin with a letter or digit, got %s", Quote(tenant))
	}
	q.seen.Vault = tenant
	return tenant, nil
}

func (h *handler) vaults(q *request) (any, error) {
	list, err := h.service.Vaults(q.r.Context(), q.caller, "")
	return vaultList{vaultsOf(list)}, err
}

func (h *handler) vault(q *request) (any, error) {
	tenant, err := q.tenant()
	if err != nil {
		return nil, err
	}
	list, err := h.service.Vaults(q.r.Context(), q.caller, tenant)
	return vaultList{vaultsOf(list)}, err
}

// vaultsOf makes empty lists of lists that are nil.
func vaultsOf(list []VaultInfo) []VaultInfo {
	for i := range list {
		list[i].Runs = notNil(list[i].Runs)
	}
	return notNil(list)
}

// prune is POST /v1/agent/vaults/{tenant}/prune.
func (h *handler) prune(q *request) (any, error) {
	tenant, err := q.tenant()
	if err != nil {
		return nil, err
	}
	body, err := readBody(q.w, q.r)
	if err != nil {
		return nil, err
	}
	p, err := decodePrune(body)
	if err != nil {
		return nil, err
	}
	a, err := h.service.Prune(q.r.Context(), q.caller, q.id, p.digest(tenant), tenant, p)
	q.seen.Task = a.TaskID
	return a, err
}

// decodePrune reads {"dry_run": B, "keep_all": B, "accept_share": B}, of which all may be missing.
func decodePrune(body []byte) (p PruneCommand, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return p, nil
	}
	err = eachField(body, func(key string, raw json.RawMessage) error {
		into := map[string]*bool{"dry_run": &p.DryRun, "keep_all": &p.KeepAll, "accept_share": &p.AcceptShare}[key]
		if into == nil {
			return unknownField(key)
		}
		if *into = string(raw) == "true"; !*into && string(raw) != "false" {
			return Refuse(CodeParameter, "%s: must be true or false, got %s", key, Quote(string(raw)))
		}
		return nil
	})
	return p, err
}

// digest tells commands apart.
func (p PruneCommand) digest(tenant string) [32]byte {
	b, err := json.Marshal(struct {
		Verb   string `json:"verb"`
		Tenant string `json:"tenant"`
		PruneCommand
	}{"prune", tenant, p})
	if err != nil {
		panic(err) // strings always marshal
	}
	return sha256.Sum256(b)
}

// Prune commands a prune of a tenant's vault. The same request id gives the same run; "" makes a
// new one.
func (c *Client) Prune(ctx context.Context, requestID, tenant string, p PruneCommand) (PruneAnswer, error) {
	var v PruneAnswer
	err := c.call(ctx, http.MethodPost, "/v1/agent/vaults/"+url.PathEscape(tenant)+"/prune", requestID, p, &v)
	return v, err
}

// Vaults lists the vaults that the agent's host prunes, or the vault of one tenant.
func (c *Client) Vaults(ctx context.Context, tenant string) ([]VaultInfo, error) {
	path := "/v1/agent/vaults"
	if tenant != "" {
		path += "/" + url.PathEscape(tenant)
	}
	var v vaultList
	err := c.call(ctx, http.MethodGet, path, "", nil, &v)
	return v.Vaults, err
}

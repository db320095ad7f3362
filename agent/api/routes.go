package api

import (
	"net/http"
	"slices"
)

// NewHandler serves the control plane's contract, and the agent's own calls under /v1/agent/,
// to callers with tokens. It is safe for concurrent use, as Service and Authenticator must be.
func NewHandler(s Service, a Authenticator, o Options) http.Handler {
	if a == nil {
		panic("api: NewHandler without an Authenticator")
	}
	return newHandler(s, a, o, slices.Concat(contractRoutes, prepareRoutes, agentRoutes, wayOutRoutes, vaultRoutes))
}

// NewOperatorHandler serves the agent's own calls to every process that can open the socket on
// which it is served: its callers are operators, without tokens. Never serve it on a network.
func NewOperatorHandler(s Service, o Options) http.Handler {
	return newHandler(s, nil, o, slices.Concat(agentRoutes, wayOutRoutes, vaultRoutes))
}

var contractRoutes = []route{
	{http.MethodPost, "/v1/instances/backup", toCommand, (*handler).backup},
	{http.MethodGet, "/v1/instances/tasks/{task_id}", toSee, (*handler).task},
}

// prepareRoutes bring instances back, and tell how they are.
var prepareRoutes = []route{
	{http.MethodPost, "/v1/instances/prepare", toCommand, (*handler).prepare},
	{http.MethodPost, "/v1/instances/prepare-progress", toSee, (*handler).prepareProgress},
	{http.MethodPost, "/v1/instances/batch-query-status", toSee, (*handler).queryStatus},
}

// agentRoutes are the agent's own calls. Operators reach them by the
// socket; holders of tokens by the network too, as far as their role
// goes (a control plane must release and resume its held instances).
var agentRoutes = []route{
	{http.MethodGet, "/v1/agent/openapi.json", toSee, (*handler).openapi},
	{http.MethodGet, "/v1/agent/info", toSee, (*handler).info},
	{http.MethodGet, "/v1/agent/instances", toSee, (*handler).instances},
	{http.MethodGet, "/v1/agent/jobs", toSee, (*handler).jobs},
	{http.MethodGet, "/v1/agent/events", toSee, (*handler).reports},
	{http.MethodGet, "/v1/agent/reports", toOperate, (*handler).refusedReports},
	{http.MethodPost, "/v1/agent/reports/{number}/retry", toOperate, (*handler).retryReport},
	{http.MethodPost, "/v1/agent/reports/{number}/give-up", toOperate, (*handler).giveUpReport},
	{http.MethodPost, "/v1/agent/reports/{number}/drop", toOperate, (*handler).dropReport},
	{http.MethodGet, "/v1/agent/tasks/{task_id}", toSee, (*handler).taskJobs},
	{http.MethodGet, "/v1/agent/tasks/{task_id}/events", toSee, (*handler).events},
	{http.MethodPost, "/v1/agent/tasks/{task_id}/cancel", toCommand, (*handler).cancel},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/release", toCommand, (*handler).release},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/resume", toCommand, (*handler).resume},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/accept-fork", toOperate, (*handler).acceptFork},
	{http.MethodGet, "/v1/agent/kept", toOperate, (*handler).kept},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/kept/put-back", toOperate, (*handler).putBack},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/kept/remove", toOperate, (*handler).removeKept},
	{http.MethodPost, "/v1/agent/backup", toOperate, (*handler).backup},
	{http.MethodPost, "/v1/agent/drain", toOperate, (*handler).drain},
	{http.MethodGet, "/v1/agent/throttle", toOperate, (*handler).throttle},
	{http.MethodPut, "/v1/agent/throttle", toOperate, (*handler).setThrottle},
}

// wayOutRoutes are operators' alone.
var wayOutRoutes = []route{
	{http.MethodPost, "/v1/agent/prepare", toOperate, (*handler).prepareFrom},
	{http.MethodGet, "/v1/agent/instances/{instance_id}/loss", toOperate, (*handler).loss},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/accept-loss", toOperate, (*handler).acceptLoss},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/abandon", toOperate, (*handler).abandon},
	{http.MethodGet, "/v1/agent/claims", toOperate, (*handler).claims},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/take-over-claim", toOperate, (*handler).takeOverClaim},
}

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/internal/obs"
)

// rateFlag is a limit of bytes a second on the command line.
type rateFlag struct {
	bytes int64 // 0 is no limit
	given bool
}

func (r *rateFlag) Type() string { return "SIZE" }

func (r *rateFlag) String() string {
	if !r.given {
		return ""
	}
	return config.Size(r.bytes).String()
}

func (r *rateFlag) Set(text string) error {
	n, err := config.ParseSize(text)
	if err != nil {
		return err
	}
	if n != 0 && (n < obs.MinRate || n > api.MaxThrottleBytes) {
		return fmt.Errorf("must be 0 for no limit or from %v to %v", config.Size(obs.MinRate), config.Size(api.MaxThrottleBytes))
	}
	r.bytes, r.given = int64(n), true
	return nil
}

// value is the flag's value; nil where it was not given.
func (r *rateFlag) value() *int64 {
	if !r.given {
		return nil
	}
	return &r.bytes
}

func (a *app) throttleCommand() *cobra.Command {
	var up, down rateFlag
	var requests int64
	var reset bool
	cmd := &cobra.Command{
		Use:   "throttle",
		Short: "Tell or set what a running agent may ask of its store",
		Long: "throttle prints the limits of what all jobs of the agent together send to the store and read from it,\n" +
			"and where each comes from: the configuration (bandwidth), the window of its schedule that holds now, or\n" +
			"an operator.\n\n" +
			"With a limit it sets that until the agent ends or --reset takes it back, also for uploads under way.\n" +
			"What is not given is as the configuration says, whatever was set before. 0 is no limit.",
		Example: "  holdfast throttle --up 20MiB\n  holdfast throttle --reset",
		Args:    arguments(),
	}
	ask := a.askAgent(cmd, "throttle", func(ctx context.Context, c *api.Client, _ []string) error {
		s := api.ThrottleSetting{Up: up.value(), Down: down.value()}
		if cmd.Flags().Changed("requests") {
			s.Requests = &requests
		}
		if reset && s != (api.ThrottleSetting{}) {
			return &usageError{msg: "--reset: give it or limits, not both", command: cmd.CommandPath()}
		}
		var t api.Throttle
		var err error
		if reset || s != (api.ThrottleSetting{}) {
			t, err = c.SetThrottle(ctx, s)
		} else {
			t, err = c.Throttle(ctx)
		}
		if err != nil {
			return err
		}
		if a.json {
			return a.document(t)
		}
		return a.throttle(t)
	})
	f := cmd.Flags()
	f.Var(&up, "up", "at most `SIZE` a second to the store, such as 20MiB; 0 is no limit")
	f.Var(&down, "down", "at most `SIZE` a second from the store; 0 is no limit")
	f.Int64Var(&requests, "requests", 0, "at most `N` requests a second; 0 is no limit")
	f.BoolVar(&reset, "reset", false, "take back what was set")
	return ask
}

// throttle prints the limits and the load of the agent's store.
func (a *app) throttle(t api.Throttle) error {
	_, err := fmt.Fprintf(a.stdout, "up        %s, %s\ndown      %s, %s\nrequests  %s, %s\n",
		bytesLimit(t.Up), source(t.Up), bytesLimit(t.Down), source(t.Down), requestsLimit(t.Requests), source(t.Requests))
	if err == nil && !t.NextChange.IsZero() {
		_, err = fmt.Fprintf(a.stdout, "changes   %s\n", stamp(t.NextChange))
	}
	if err == nil {
		_, err = fmt.Fprintf(a.stdout, "now       %s under way of %d at most, %d waiting\n", count(t.InFlight, "request", "requests"), t.Level, t.Waiting)
	}
	return err
}

// limitsInForce tells the limits that there are in one line.
func limitsInForce(t api.Throttle) string {
	var parts []string
	for _, l := range []struct {
		what, text string
		of         api.Limit
	}{{"up ", bytesLimit(t.Up), t.Up}, {"down ", bytesLimit(t.Down), t.Down}, {"", requestsLimit(t.Requests), t.Requests}} {
		if l.of.Limit != 0 {
			parts = append(parts, fmt.Sprintf("%s%s (%s)", l.what, l.text, source(l.of)))
		}
	}
	return strings.Join(parts, ", ")
}

func bytesLimit(l api.Limit) string {
	if l.Limit == 0 {
		return "no limit"
	}
	return size(l.Limit) + "/s"
}

func requestsLimit(l api.Limit) string {
	if l.Limit == 0 {
		return "no limit"
	}
	return count(l.Limit, "request", "requests") + "/s"
}

// source says where a limit comes from.
func source(l api.Limit) string {
	switch l.From {
	case api.FromOperator:
		return "set by an operator"
	case api.FromSchedule:
		return "by the schedule"
	}
	return "as configured"
}

// limits is the flags that bound one command's traffic with the store.
type limits struct {
	up, down rateFlag
	shared   *obs.Limiter // of a command that opens two stores
	requests float64      // a second; 0 is any number
}

// requestFlag adds the limit of requests, for long work that is in no hurry.
func (l *limits) requestFlag(cmd *cobra.Command) {
	cmd.Flags().Float64Var(&l.requests, "limit-requests", 0, "send at most `N` requests a second to the store")
}

func (l *limits) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&l.up, "limit-up", "send at most `SIZE` a second to the store, such as 20MiB")
	f.Var(&l.down, "limit-down", "read at most `SIZE` a second from the store")
}

// limiter is nil where nothing is limited.
func (l *limits) limiter() *obs.Limiter {
	if l.shared != nil || l.up.bytes == 0 && l.down.bytes == 0 && l.requests <= 0 {
		return l.shared
	}
	return obs.NewLimiter(obs.Limits{Up: l.up.bytes, Down: l.down.bytes, Requests: max(l.requests, 0)})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

func (a *app) claimCommand() *cobra.Command {
	list := a.askAgent(&cobra.Command{
		Use:   "list [INSTANCE]",
		Short: "List the claims by which hosts say that they have instances",
		Long: "list has the claims on the instances that the agent's host has in its configuration, or on one of them. A host claims an\n" +
			"instance when it prepares the instance, gives signs of life while it has the instance, and lets go with the release.",
		Args: atMostOne("INSTANCE"),
	}, "claim list", func(ctx context.Context, c *api.Client, args []string) error {
		claims, err := c.Claims(ctx, strings.Join(args, ""))
		if err != nil {
			return err
		}
		if a.json {
			if claims == nil {
				claims = []api.ClaimInfo{}
			}
			return a.document(map[string]any{"claims": claims})
		}
		if len(claims) == 0 {
			a.say("no host has a claim")
			return nil
		}
		return a.claimTable(claims)
	})
	return group("claim", "Look after the claims by which hosts say that they have instances", list, a.takeOverCommand())
}

// atMostOne refuses more than one argument.
func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return arguments(name)(cmd, args)
	}
}

func (a *app) claimTable(claims []api.ClaimInfo) error {
	rows := [][]string{{"INSTANCE", "HOST", "SINCE", "LAST SIGN OF LIFE", "SILENT FOR", "JOB", "TOOK OVER"}}
	for _, c := range claims {
		host, took := name(c.Host), "-"
		if c.ThisHost {
			host += " (this host)"
		}
		if c.Took > 0 {
			took = oneLine(fmt.Sprintf("%d: %s", c.Took, dash(c.Reason)))
		}
		rows = append(rows, []string{
			name(c.InstanceID), host, stamp(c.Since), stamp(c.Renewed), clock(time.Duration(c.SilentSeconds * float64(time.Second))), dash(oneLine(c.JobID)), took,
		})
	}
	return a.table(rows)
}

// takeOverCommand shows the claims on an instance, and with --yes takes them over.
func (a *app) takeOverCommand() *cobra.Command {
	var yes, force bool
	var reason string
	cmd := &cobra.Command{
		Use:   "take-over INSTANCE",
		Short: "Give the agent's host the claim on an instance that another host has",
		Long: "take-over is for an instance whose claim belongs to a host that is gone for good, or that is to have the instance no more.\n" +
			"`prepare` takes such a claim over by itself once the other host is silent for prepare.claim_silence; where that is 0s, never.\n" +
			"A host that gave a sign of life lately is refused, unless --force is given: release the instance there instead.\n\n" +
			"take-over changes the claim and nothing else: command a prepare next. Should the other host be alive after all, its\n" +
			"status says so (claimed_elsewhere), and the next backup of one of the two hosts is a fork.",
		Example: "  holdfast claim take-over cp-0001 --reason 'host-08 burnt down' --yes",
		Args:    arguments("INSTANCE"),
	}
	ask := a.askAgent(cmd, "claim take-over", func(ctx context.Context, c *api.Client, args []string) error {
		if reason == "" {
			return &usageError{msg: "--reason is missing: other hosts and the log are told why", command: cmd.CommandPath()}
		}
		if !yes {
			claims, err := c.Claims(ctx, args[0])
			if err != nil {
				return err
			}
			if len(claims) > 0 {
				if err := a.claimTable(claims); err != nil {
					return err
				}
			}
			return &hintedError{errors.New("nothing was taken over"), "give --yes to take over the claims of other hosts"}
		}
		taken, err := c.TakeOverClaim(ctx, args[0], reason, force)
		if err != nil {
			return err
		}
		if a.json {
			return a.document(map[string]any{"taken": taken})
		}
		var hosts []string
		for _, t := range taken {
			hosts = append(hosts, oneLine(t.Host))
		}
		_, err = fmt.Fprintf(a.stdout, "the claim of %s on %s belongs to this host now; holdfast request prepare %[2]s restores the instance here\n",
			strings.Join(hosts, ", "), oneLine(args[0]))
		return err
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "take the claim over")
	cmd.Flags().BoolVar(&force, "force", false, "take the claim over although the other host gave a sign of life lately")
	cmd.Flags().StringVar(&reason, "reason", "", "the reason, as a `TEXT` for people")
	return ask
}

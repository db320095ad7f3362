package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/audit"
)

// auditJSON is an audit log that was verified.
type auditJSON struct {
	Files      int       `json:"files"`
	Lines      uint64    `json:"lines"`
	First      uint64    `json:"first"` // number of the first line that is there
	Begin      time.Time `json:"begin,omitzero"`
	End        time.Time `json:"end,omitzero"`
	Head       string    `json:"head"`
	Incomplete bool      `json:"incomplete"`
}

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Look at the log of who commanded what", a.auditVerifyCommand())
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that no line of an audit log was changed, added or taken out",
		Long: "verify reads an agent's audit log, with the files that it was rotated to beside it, and checks that each\n" +
			"line has the hash of the one before. That its end was cut off does not show so: for that, give as --head\n" +
			"the number and hash that the agent wrote to its own log (\"audit log opened\", \"closed\").",
		Example: "  holdfast audit verify /var/lib/holdfast/audit.log",
		Args:    arguments("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			var noted audit.Head
			var err error
			if head != "" {
				if noted, err = audit.ParseHead(head); err != nil {
					return usagef("--head: %v", err)
				}
			}
			s, err := audit.Verify(args[0], noted)
			if err != nil {
				if errors.Is(err, audit.ErrHead) {
					err = &hintedError{err, "its end was cut off, or it was written anew"}
				}
				return &failure{doing: "audit verify", err: err}
			}
			if a.json {
				return a.document(auditJSON{s.Files, s.Lines, s.First, s.Begin, s.End, s.Head.String(), s.Incomplete})
			}
			if s.Lines == 0 {
				_, err = fmt.Fprintln(a.stdout, "the log is empty")
				return err
			}
			if s.First > 1 {
				a.say("it begins with line %d: older files were deleted", s.First)
			}
			if s.Incomplete {
				a.say("the last line was not written whole, as by a crash; the agent takes it off")
			}
			_, err = fmt.Fprintf(a.stdout, "%d lines in %d files, %s to %s, each follows the one before\nhead %s\n",
				s.Lines, s.Files, stamp(s.Begin), stamp(s.End), s.Head)
			return err
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "`NUMBER:HASH` of a line that must be there")
	return cmd
}

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

// defaultGrowth is the time of which stats tells the growth.
const defaultGrowth = 30 * 24 * time.Hour

// terabyte is the unit of the prices of stores, in bytes.
const terabyte = 1e12

// statsJSON is the result of stats.
type statsJSON struct {
	Vault string    `json:"vault"`
	Since time.Time `json:"grown_since"`
	// Cost is the price of the packs a month, in the currency of --price.
	Cost float64 `json:"cost_a_month,omitempty"`
	*vault.Stats
}

func (a *app) statsCommand() *cobra.Command {
	var v access
	growth := spanFlag{span: defaultGrowth}
	var price float64
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show how many bytes the backups of each instance take",
		Long: "stats counts the bytes of the vault's packs. A pack that only backups of one instance name is unique to the instance;\n" +
			"forgetting the instance would free it. A pack that several instances name is shared. A pack that no backup names is\n" +
			"garbage, which prune deletes; a prune after its --grace also deletes what only forgotten backups name. GROWN are the\n" +
			"bytes that the backups of the last 30 days (--growth) stored anew. stats reads all manifests, and no content.",
		Example: "  holdfast stats --price 23",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(price >= 0) { // also refuses NaN
				return &usageError{msg: fmt.Sprintf("--price: must not be negative, got %v", price), command: cmd.CommandPath()}
			}
			return a.withVault(cmd, v, "stats", func(ctx context.Context, at *vaultAt) error {
				since := time.Now().Add(-growth.span)
				s, err := at.Stats(ctx, since)
				if err != nil {
					return err
				}
				return a.showStats(statsJSON{at.Info().Name, since.UTC(), price * float64(s.Bytes) / terabyte, s})
			})
		},
	}
	v.flags(cmd)
	v.limits.flags(cmd)
	v.limits.requestFlag(cmd)
	f := cmd.Flags()
	f.Var(&growth, "growth", "`SPAN` of which to show the growth")
	f.Float64Var(&price, "price", 0, "`AMOUNT` that the store takes for a terabyte (10^12 bytes) and month, in any currency")
	return cmd
}

// showStats prints the counts of a vault.
func (a *app) showStats(s statsJSON) error {
	if a.json {
		return a.document(s)
	}
	rows := [][]string{{"INSTANCE", "BACKUPS", "FORGOTTEN", "NEWEST", "CONTENT", "UNIQUE", "SHARED", "GROWN"}}
	for _, i := range s.Instances {
		rows = append(rows, []string{
			i.Instance, fmt.Sprint(i.Backups), fmt.Sprint(i.Forgotten), stamp(i.Newest),
			size(i.Content), size(i.Unique), size(i.Shared), size(i.Grown),
		})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	text := fmt.Sprintf("%s in %s: %s shared, %s of forgotten backups alone, %s garbage; grown by %s since %s\n",
		size(s.Bytes), count(s.Packs, "pack", "packs"), size(s.Shared), size(s.Forgotten), size(s.GarbageBytes), size(s.Grown), stamp(s.Since))
	if s.Cost > 0 {
		text += fmt.Sprintf("cost a month: %.2f\n", s.Cost)
	}
	if _, err := fmt.Fprint(a.stdout, text); err != nil {
		return err
	}
	if s.DamagedMarks != "" {
		a.sideWarning("backups whose marks do not open count as not forgotten: " + s.DamagedMarks)
	}
	if s.Missing > 0 {
		a.sideWarning(fmt.Sprintf("backups name %s that the list did not have: holdfast verify looks whether they are missing", count(s.Missing, "pack", "packs")))
	}
	return nil
}

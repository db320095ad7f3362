package main

import (
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/obs"
)

func (a *app) storeCommand() *cobra.Command {
	return group("store", "Make a folder a store", a.storeInitCommand())
}

// storeMade is what store init prints with --json.
type storeMade struct {
	Store string `json:"store"`
}

func (a *app) storeInitCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a folder a store of vaults",
		Long: "init makes the folder of a file store, tries whether its file system can hold one, and puts a\n" +
			"marker there (.holdfast-store). Without the marker no program takes a folder for a store: the mount\n" +
			"point of a disk that is not mounted looks like an empty folder, and backups in it would lie on\n" +
			"another disk. So mount the disk first. A folder that is a store stays as it is. Buckets need no init.",
		Example: "  holdfast store init --store file:///srv/backups",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			const doing = "store init"
			url := a.value(v.store, envStore, "")
			switch {
			case url == "":
				return &usageError{msg: "no store given", command: cmd.CommandPath(), advice: "give --store URL or set " + envStore}
			case !strings.HasPrefix(url, "file:"):
				return &usageError{
					msg: "only a folder is made a store: file:///path", command: cmd.CommandPath(),
					advice: "a bucket needs no init; make the vault: holdfast vault create",
				}
			}
			store, err := obs.Open(cmd.Context(), url, obs.Options{Getenv: a.getenv, Create: true, Warn: a.sideWarning})
			if err != nil {
				return &failure{doing: doing, err: err}
			}
			made := store.String()
			if err := store.Close(); err != nil {
				return &failure{doing: doing, err: err}
			}
			if a.json {
				return encode(a.stdout, storeMade{made}, "  ")
			}
			a.say("%s is a store; make a vault in it with holdfast vault create", made)
			return nil
		},
	}
	cmd.Flags().StringVar(&v.store, "store", "", "`URL` of the folder: file:///path ("+envStore+")")
	return cmd
}

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// keyJSON tells about a key that was made.
type keyJSON struct {
	File      string `json:"file"`
	Recipient string `json:"recipient"`
}

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Make keys", a.keyNewCommand())
}

func (a *app) keyNewCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "new --out FILE",
		Short: "Make an age identity and print its recipient",
		Long: "new writes a new age identity to FILE (mode 0600, never over a file that is there) and prints\n" +
			"its recipient, to give to holdfast vault create --recipient on other hosts. Whoever has the file\n" +
			"reads every vault made for it; without it nobody does. Keep a copy offline.",
		Example: "  holdfast key new --out /etc/holdfast/host.key",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return &usageError{msg: "missing --out FILE", command: cmd.CommandPath()}
			}
			recipient, err := newKey(out)
			if err != nil {
				return &failure{doing: "key new", err: err}
			}
			if a.json {
				return a.document(keyJSON{out, recipient})
			}
			a.say("wrote %s; keep a copy of it offline: without it no backup can be read", name(out))
			_, err = fmt.Fprintln(a.stdout, recipient)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write; it must not exist")
	return cmd
}

// newKey makes an identity, stores it durably in a new file and returns its recipient.
func newKey(file string) (string, error) {
	id, err := vault.GenerateIdentity()
	if err != nil {
		return "", err
	}
	text, err := id.MarshalText()
	if err != nil {
		return "", err
	}
	if err := durable.Publish(file, text, 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("%s is there already; a key is never overwritten", name(file))
		}
		return "", err
	}
	return id.Recipient(), nil
}

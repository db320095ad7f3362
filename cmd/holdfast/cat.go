package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// catRun is how many bytes of a pack cat asks for at once: neighbouring chunks come in one request.
const catRun = 4 << 20

func (a *app) catCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "cat BACKUP PATH",
		Short: "Print a file or an image of a backup",
		Long: "cat prints the content of one file to stdout, holes as zeros. In a backup of several volumes PATH\n" +
			"begins with the volume's name; the path of an image is its volume's name, data without an agent.",
		Args: arguments("BACKUP", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withVault(cmd, v, "cat "+args[0], func(ctx context.Context, at *vaultAt) error {
				return a.cat(ctx, at, args[0], strings.Trim(args[1], "/"))
			})
		},
	}
	v.flags(cmd)
	return cmd
}

// errEnough ends a look through a recipe early.
var errEnough = errors.New("enough")

func (a *app) cat(ctx context.Context, at *vaultAt, id, path string) error {
	head := func(m *vault.Manifest) error {
		if m.Lost > 0 { // on stdout is the file and nothing else
			a.say("note: %s", oneLine(incompleteNote(m)))
		}
		return nil
	}
	return a.file(ctx, at, id, path, head)
}

// file prints a file of a backup, whose manifest it gives to head before.
func (a *app) file(ctx context.Context, at *vaultAt, id, path string, head func(*vault.Manifest) error) error {
	w := &fileWriter{vault: at.Vault, to: a.stdout}
	first := "" // of the file's names, in its own volume, when path is a further one
	err := a.items(ctx, at, id, head, func(p string, item *vault.Item) error {
		switch {
		case p != path && w.found:
			return errEnough
		case p != path:
			return nil
		case item.Continued:
			return w.extents(ctx, item.Extents)
		case item.Kind != tree.File:
			return fmt.Errorf("%s is no file but a %s", name(path), kindName(item.Kind))
		}
		w.found = true
		if item.HasLinkTo {
			first = strings.TrimSuffix(path, item.Path) + item.LinkTo
			return errEnough
		}
		w.size = item.Size
		return w.extents(ctx, item.Extents)
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return err
	case !w.found:
		return &noEntryError{path}
	case first != "":
		return a.file(ctx, at, id, first, func(*vault.Manifest) error { return nil })
	}
	return w.hole(w.size)
}

// fileWriter writes one file in order. It is for one goroutine.
type fileWriter struct {
	vault *vault.Vault
	to    io.Writer
	found bool
	size  int64
	at    int64 // bytes written
	run   []byte
	plain []byte
}

// extents writes the content of the extents, with the holes before them.
func (w *fileWriter) extents(ctx context.Context, all []vault.Extent) error {
	for len(all) > 0 {
		start, end := all[0].Chunk, all[0].Chunk
		n := 1
		for ; n < len(all); n++ {
			next := all[n].Chunk
			beside := next.Pack == end.Pack && (next == end || next.Off == end.Off+end.Len)
			if !beside || int64(next.Off)+int64(next.Len)-int64(start.Off) > catRun {
				break
			}
			end = next
		}
		length := int(end.Off) + int(end.Len) - int(start.Off)
		if cap(w.run) < length {
			w.run = make([]byte, length)
		}
		w.run = w.run[:length]
		if err := w.vault.ReadRun(ctx, start.Pack, w.run, start.Off); err != nil {
			return err
		}
		opener := w.vault.Opener(start.Pack)
		for _, e := range all[:n] {
			from := e.Chunk.Off - start.Off
			plain, err := opener.Open(vault.Content, e.Chunk, w.run[from:from+e.Chunk.Len], w.plain[:0])
			if err != nil {
				if plain, err = w.vault.Again(ctx, vault.Content, e.Chunk, err); err != nil {
					return err
				}
			}
			w.plain = plain
			if e.Off < w.at || uint64(e.In)+uint64(e.Len) > uint64(len(plain)) || e.Off+int64(e.Len) > w.size {
				return fmt.Errorf("the recipe has an extent at byte %d that does not fit", e.Off)
			}
			if err := w.hole(e.Off); err != nil {
				return err
			}
			if err := w.write(plain[e.In : e.In+e.Len]); err != nil {
				return err
			}
		}
		all = all[n:]
	}
	return nil
}

// hole writes zeros up to the offset to.
func (w *fileWriter) hole(to int64) error {
	var zeros [64 << 10]byte
	for w.at < to {
		if err := w.write(zeros[:min(int64(len(zeros)), to-w.at)]); err != nil {
			return err
		}
	}
	return nil
}

func (w *fileWriter) write(p []byte) error {
	n, err := w.to.Write(p)
	w.at += int64(n)
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

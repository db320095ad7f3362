package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"holdfast/internal/plain"
)

// document prints v as the one JSON document of a command, indented for reading.
func (a *app) document(v any) error {
	return encode(a.stdout, v, "  ")
}

// line prints v as one JSON line. It may be called from any goroutine.
func (a *app) line(v any) error {
	a.printing.Lock()
	defer a.printing.Unlock()
	return encode(a.stdout, v, "")
}

func encode(w io.Writer, v any, indent string) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	if err == nil {
		_, err = w.Write(plain.JSON(text.Bytes()))
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// table prints rows in aligned columns; the first row is the heading. Every cell is made safe for a
// terminal.
func (a *app) table(rows [][]string) error {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			end := "\t"
			if i == len(row)-1 {
				end = "\n"
			}
			fmt.Fprint(t, oneLine(cell), end)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// stamp writes a time for a person: UTC, to the second.
func stamp(t time.Time) string {
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

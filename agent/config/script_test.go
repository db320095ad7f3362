package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScripts: what keeps the kernel from running a command of an
// exec runtime is told in words that name it.
func TestScripts(t *testing.T) {
	for content, want := range map[string]string{
		"#!/bin/sh\nexit\n":             "",
		"#!/usr/bin/env -S sh -e\n":     "",
		"#! /bin/sh\n":                  "",
		"\x7fELF":                       "",
		"":                              "",
		"echo\r\n":                      "",
		"#!/bin/sh\r\nexit\r\n":         "ends in CR LF",
		"#!/usr/bin/env sh\r\nexit\r\n": "ends in CR LF",
		"\xef\xbb\xbf#!/bin/sh\nexit\n": "byte order mark",
		"#!\n":                          "names no interpreter",
		"#!/no/such/shell\nexit\n":      "/no/such/shell",
	} {
		path := filepath.Join(t.TempDir(), "hook")
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		f := &faults{seen: map[string]bool{}}
		program(f, "freeze[0]", []string{path})
		got := ""
		if err := f.err(); err != nil {
			got = err.Error()
		}
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
}

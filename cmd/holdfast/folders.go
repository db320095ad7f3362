package main

import (
	"fmt"
	"path/filepath"

	"holdfast/internal/hostid"
)

// catalogueDir is where this user's catalogues are kept (XDG Base Directory Specification);
// "" where the environment names no cache folder, and then every file is read.
func (a *app) catalogueDir() string { return a.userDir("XDG_CACHE_HOME", ".cache") }

// indexDir is where this user's copies of the vaults' indexes are kept; "" where
// the environment names no cache folder, and then each backup fetches the index.
func (a *app) indexDir() string {
	if dir := a.catalogueDir(); dir != "" {
		return filepath.Join(dir, "index")
	}
	return ""
}

// userDir is the tool's folder in the folder that the
// variable names, or in its default below the user's home.
func (a *app) userDir(variable, below string) string {
	if dir := a.getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "holdfast")
	}
	if home := a.getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, below, "holdfast")
	}
	return ""
}

// identity is the identity of this host in the user's state
// folder. Without an identity, a backup is made as well.
func (a *app) identity() hostid.Identity {
	dir := a.userDir("XDG_STATE_HOME", filepath.Join(".local", "state"))
	if dir == "" {
		return hostid.Identity{}
	}
	id, err := hostid.Load(dir)
	if err != nil {
		a.sideWarning(fmt.Sprintf("%v; after a reboot, what a killed backup of this user left in the vault stays until holdfast vault sessions --forget", err))
	}
	return id
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kardianos/service"

	"holdfast/agent/config"
	"holdfast/systemd"
)

// serviceName is the unit's name without ".service".
const serviceName = "holdfast"

// packagedUnits is where packages put the unit.
var packagedUnits = []string{"/usr/lib/systemd/system/holdfast.service", "/lib/systemd/system/holdfast.service"}

// installedFiles is what install writes beside the unit.
var installedFiles = map[string]string{
	"/etc/sysusers.d/holdfast.conf": systemd.Sysusers,
	"/etc/tmpfiles.d/holdfast.conf": systemd.Tmpfiles,
}

const installedUnit = "/etc/systemd/system/holdfast.service"

// plainPath is a path that means the same in a unit: no space, quote, percent or dollar sign.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+@-]+$`)

// manage carries out a command about the service.
func manage(command, configPath string, stdout io.Writer) error {
	unit := systemd.Unit
	if command == "install" {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		if unit, err = unitFor(program, configPath); err != nil {
			return err
		}
	}
	svc, err := service.New(&program{}, &service.Config{
		Name:   serviceName,
		Option: service.KeyValue{"SystemdScript": unit},
	})
	if err != nil {
		return err
	}
	if svc.Platform() != "linux-systemd" {
		return fmt.Errorf("%s: this host is managed by %s, and Holdfast comes with a unit for systemd only", command, svc.Platform())
	}
	switch command {
	case "install":
		if err := install(svc); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		_, err = fmt.Fprintf(stdout, "installed %s; holdfastd start starts it\n", installedUnit)
		return err
	case "uninstall":
		if err := uninstall(svc); err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
		_, err = fmt.Fprintf(stdout, "removed %s; configuration, keys and journal stay\n", installedUnit)
		return err
	case "start":
		return svc.Start()
	case "stop":
		return svc.Stop()
	case "restart":
		return svc.Restart()
	default:
		return status(svc, stdout)
	}
}

// unitFor is the unit with the paths of this installation in it.
func unitFor(program, configPath string) (string, error) {
	configPath, err := filepath.Abs(configPath)
	if err != nil {
		return "", err
	}
	for _, p := range []string{program, configPath} {
		if !plainPath.MatchString(p) {
			return "", fmt.Errorf("a unit can't name the path %q; use one of letters, digits and /._+@-", p)
		}
	}
	return strings.NewReplacer(systemd.Program, program, config.DefaultPath, configPath).Replace(systemd.Unit), nil
}

// install writes the files and enables the unit, or leaves nothing.
func install(svc service.Service) (err error) {
	for _, path := range append(packagedUnits, installedUnit) {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there already: installed by a package, or before", path)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeFiles())
		}
	}()
	for path, content := range installedFiles {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := systemTool("systemd-sysusers", "holdfast.conf"); err != nil {
		return err
	}
	if err := systemTool("systemd-tmpfiles", "--create", "holdfast.conf"); err != nil {
		return err
	}
	return svc.Install()
}

// uninstall stops the service and removes what install wrote. The
// group stays, as files may belong to it.
func uninstall(svc service.Service) error {
	for _, path := range packagedUnits {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s was installed by a package: apt remove holdfast", path)
		}
	}
	if _, err := os.Lstat(installedUnit); err != nil {
		return err
	}
	if err := svc.Stop(); err != nil {
		return err
	}
	return errors.Join(svc.Uninstall(), removeFiles())
}

// removeFiles removes what install writes, as far as it is there.
func removeFiles() error {
	var errs []error
	for path := range installedFiles {
		errs = append(errs, removeIfThere(path))
	}
	return errors.Join(append(errs, removeIfThere(installedUnit))...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func systemTool(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// errNotRunning is the answer of status when the service does not run.
var errNotRunning = errors.New("the service does not run")

func status(svc service.Service, stdout io.Writer) error {
	s, err := svc.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
		return fmt.Errorf("%w: it is not installed", errNotRunning)
	case err != nil:
		return fmt.Errorf("%w: %w", errNotRunning, err)
	case s != service.StatusRunning:
		return errNotRunning
	}
	_, err = fmt.Fprintln(stdout, "running")
	return err
}

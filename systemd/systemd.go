// Package systemd holds the files of Holdfast for the service manager: the unit,
// the group and the folders. The .deb ships these files and "holdfastd install"
// writes the same bytes. The reason for each directive of the unit is in README.md.
package systemd

import _ "embed" // the files below

// Unit is holdfast.service, for /lib/systemd/system (a package) or
// /etc/systemd/system (an installation by hand).
//
//go:embed holdfast.service
var Unit string

// Sysusers is holdfast.conf of sysusers.d: the group of the operators.
//
//go:embed holdfast.sysusers
var Sysusers string

// Tmpfiles is holdfast.conf of tmpfiles.d: the folders in /run and /etc.
//
//go:embed holdfast.tmpfiles
var Tmpfiles string

// Program is the path of the daemon that Unit names.
const Program = "/usr/bin/holdfastd"

package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// iamIDPattern is the form of ids of projects and domains.
// Keystone's are 32 hex digits, and "default".
var iamIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// roles that a configuration may give.
var roles = []string{"control-plane", "operator", "read-only"}

func checkClients(f *faults, t TLS) {
	if t.ClientCAFile == "" && (t.ClientCRLFile != "" || len(t.Clients) > 0) {
		f.add("tls.client_ca_file", "is required with tls.client_crl_file and tls.clients")
	}
	for i, c := range t.Clients {
		path := fmt.Sprintf("tls.clients[%d]", i)
		if c.Name == "" || strings.ContainsAny(c.Name, "*\n") {
			f.add(path+".name", "must be a whole name of a certificate, got %s", quote(c.Name))
		} else if first := slices.IndexFunc(t.Clients, func(o Client) bool { return o.Name == c.Name }); first < i {
			f.add(path+".name", "%s is the name of clients[%d] already", quote(c.Name), first)
		}
		oneOf(f, path+".role", c.Role, roles...)
		switch {
		case c.Tenant == "":
		case c.Role == "operator":
			f.add(path+".tenant", "an operator sees every tenant, and takes none")
		case !tenantPattern.MatchString(c.Tenant):
			f.add(path+".tenant", "must be 1 to 128 of A-Z a-z 0-9 . _ : @ - and begin with a letter or digit, got %s", quote(c.Tenant))
		}
	}
}

func checkIAMRole(f *faults, path string, r IAMRole) {
	oneOf(f, path, r.Role, roles...)
	for _, id := range []struct{ key, value string }{{"project", r.Project}, {"domain", r.Domain}} {
		if id.value != "" && !iamIDPattern.MatchString(id.value) {
			f.add(path+"."+id.key, "must be the id of a %s of IAM, got %s", id.key, quote(id.value))
		}
	}
	switch {
	case r.Project != "" && r.Domain != "":
		f.add(path+".domain", "only one of project and domain may stand here")
	case r.Role == "operator" && r.Project == "" && r.Domain == "":
		f.add(path, "an operator sees every tenant, and anybody may have a role of that name in an account of their own: "+
			"name the project or the domain, such as {role: operator, project: ID}")
	}
}

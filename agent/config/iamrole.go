package config

import "regexp"

// iamIDPattern is the form of ids of projects and domains. Keystone's are 32 hex digits, and "default".
var iamIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

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

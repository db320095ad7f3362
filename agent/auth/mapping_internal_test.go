package auth

import (
	"encoding/json"
	"testing"

	"holdfast/agent/model"
)

// TestMappings: a role counts where the mapping says, and an operator
// is one of the project or the domain that is named, and of no other.
func TestMappings(t *testing.T) {
	a := &IAM{o: IAMOptions{Roles: map[string]Mapping{
		"te_admin": {Role: model.RoleOperator, Project: "ops"},
		"dom":      {Role: model.RoleOperator, Domain: "home"},
		"reader":   {Role: model.RoleReadOnly},
	}}}
	for text, want := range map[string]model.Role{
		`{"project":{"id":"ops","domain":{"id":"home"}},"roles":[{"name":"te_admin"}]}`:                       model.RoleOperator,
		`{"project":{"id":"ops"},"roles":[{"name":"te_admin"}]}`:                                              model.RoleOperator,
		`{"project":{"id":"other","domain":{"id":"ops"}},"roles":[{"name":"te_admin"}]}`:                      model.RoleTenant,
		`{"domain":{"id":"ops"},"roles":[{"name":"te_admin"}]}`:                                               model.RoleTenant,
		`{"project":{"id":"other"},"roles":[{"name":"te_admin"},{"name":"reader"}]}`:                          model.RoleReadOnly,
		`{"project":{"id":"any","domain":{"id":"home"}},"roles":[{"name":"dom"}]}`:                            model.RoleOperator,
		`{"domain":{"id":"home"},"roles":[{"name":"dom"}]}`:                                                   model.RoleOperator,
		`{"project":{"id":"home","domain":{"id":"other"}},"roles":[{"name":"dom"}]}`:                          model.RoleTenant,
		`{"project":{"id":"any"},"roles":[{"name":"dom"}]}`:                                                   model.RoleTenant,
		`{"project":{"id":"any","domain":{"id":"other"}},"domain":{"id":"home"},"roles":[{"name":"dom"}]}`:    model.RoleTenant,
		`{"project":{"id":"any","domain":{"id":"home"}},"domain":{"id":"other"},"roles":[{"name":"reader"}]}`: model.RoleReadOnly,
	} {
		var said tokenAnswer
		if err := json.Unmarshal([]byte(`{"token":`+text+`}`), &said); err != nil {
			t.Fatal(err)
		}
		if got := a.role(&said); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

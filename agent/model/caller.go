package model

import "errors"

// Role says which acts a caller may command. Caller.Tenant says which instances it may see.
type Role string

// The roles. Anything else may do nothing.
const (
	// RoleControlPlane commands backups, releases and resumes, and sees tasks.
	RoleControlPlane Role = "control-plane"
	// RoleOperator may do everything, and sees every tenant.
	RoleOperator Role = "operator"
	// RoleReadOnly sees, and changes nothing.
	RoleReadOnly Role = "read-only"
	// RoleTenant commands and sees the instances of its own tenant.
	RoleTenant Role = "tenant"
)

// Caller is who sent a request, as the Authenticator found it.
type Caller struct {
	Tenant string // "" is every tenant
	User   string // "" where the token names no user
	Role   Role
	// Via is how the caller is known, for the audit: token, certificate NAME, uid N pid N.
	Via string
}

// Sees tells whether the caller may learn anything about what belongs to tenant.
func (c Caller) Sees(tenant string) bool {
	return c.SeesAll() || c.Tenant == tenant && tenant != ""
}

// SeesAll tells whether the caller sees every tenant: an operator, or a control plane or
// reader whose token is bound to no tenant. A tenant's token without a tenant sees nothing.
func (c Caller) SeesAll() bool {
	return c.Role == RoleOperator || c.Tenant == "" && (c.Role == RoleControlPlane || c.Role == RoleReadOnly)
}

// Commands tells whether the caller may change anything.
func (c Caller) Commands() bool {
	return c.Role == RoleOperator || c.Role == RoleControlPlane || c.Role == RoleTenant
}

// Authentication failures; an Authenticator wraps or returns them.
var (
	// ErrUnknownToken says that nobody known has this token, or that
	// it has expired. Answered .0000.
	ErrUnknownToken = errors.New("unknown token")
	// ErrAuthUnavailable says that the token can't be checked now. The
	// call is refused (CodeAuthAway), and may be tried again later.
	ErrAuthUnavailable = errors.New("tokens cannot be checked now")
	// ErrAuthTooOften says that so many unknown tokens came that this one is not
	// checked. The call is refused as one too many, and may be tried again later.
	ErrAuthTooOften = errors.New("too many unknown tokens")
)

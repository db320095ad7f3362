package auth_test

import (
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/auth"
)

func TestAccount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "account")
	const good = "# who looks tokens up\n\nuser=holdfast\npassword=a=b secret \ndomain=Default\r\nproject=services"
	write(t, path, good, 0o600)
	a, err := auth.LoadAccount(path)
	if err != nil || *a != (auth.Account{User: "holdfast", Password: "a=b secret ", Domain: "Default", Project: "services"}) {
		t.Errorf("%+v, %v", a, err)
	}
	for _, tt := range []struct{ text, want string }{
		{strings.ReplaceAll(good, "domain=Default", "domain"), ":5: domain= has no value"},
		{strings.ReplaceAll(good, "domain=Default", "secret: x"), ":5: must begin with user="},
		{strings.ReplaceAll(good, "domain=Default", "user=secret2"), ":5: user= is given twice"},
		{strings.ReplaceAll(good, "domain=Default", ""), "domain= is missing"},
		{"", "user= is missing"},
	} {
		write(t, path, tt.text, 0o600)
		_, err := auth.LoadAccount(path)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
	write(t, path, good, 0o644)
	if _, err := auth.LoadAccount(path); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("a password for everybody: %v", err)
	}
}

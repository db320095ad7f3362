package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// The contract's codes.
const (
	CodeOK           = "0"
	CodeNoTenant     = "KOOPHONE.API.0000" // the token's tenant is not known, or the token is not
	CodeNoRequestID  = "KOOPHONE.API.0002" // x-request-id missing
	CodeNoHeader     = "KOOPHONE.API.0005" // another request header missing
	CodeParameter    = "KOOPHONE.API.1000" // a request parameter is incorrect
	CodeNoPermission = "KOOPHONE.API.1001" // insufficient permission for an instance
	CodeManyTenants  = "KOOPHONE.API.1012" // the instances do not belong to one tenant
	CodeInRecovery   = "KOOPHONE.API.2005" // the instance is being restored
	CodeInBackup     = "KOOPHONE.API.2006" // the instance is being backed up
	CodeNoInstance   = "KOOPHONE.API.4001" // the instance does not exist
	// not all instances are running, or not restored to this host
	CodeNotRunning = "KOOPHONE.API.5005"
	CodeInternal   = "KOOPHONE.API.9999" // anything else
)

// CodeAuthAway is one of our own, which the contract has none for: the token can't be checked
// now, as IAM does not answer. Whoever watches the callers can tell it from a fault of the agent.
const CodeAuthAway = "HOLDFAST.API.9001"

// CodeCopied is another of our own: the agent stands still, since the host may be a copy of another
// one. Nothing that a caller does changes that, and the command is for the host that works.
const CodeCopied = "HOLDFAST.API.9002"

// Copied is the refusal of every command while the agent stands still.
func Copied() *Error {
	return Refuse(CodeCopied, "this host stands still: it may be a copy of another one, and a person has to decide on the host (holdfast status, holdfastd adopt)")
}

// messageOK is the message of every success.
const messageOK = "OK"

// Error is a refusal in the contract's form.
type Error struct {
	Status     int           // of HTTP
	Code       string        // one of the Code constants
	Msg        string        // for the caller; nothing of our insides
	RetryAfter time.Duration // above zero: sent as Retry-After, in seconds rounded up
}

// Error gives code and message.
func (e *Error) Error() string { return e.Code + ": " + e.Msg }

// Refuse is the refusal with the given code: status 500 for CodeInternal, CodeAuthAway and
// CodeCopied, 400 for all others. Values from outside are to be given through Quote.
func Refuse(code, format string, args ...any) *Error {
	return &Error{Status: statusOf(code), Code: code, Msg: fmt.Sprintf(format, args...)}
}

// statusOf gives the status that the contract pairs with a code.
func statusOf(code string) int {
	if code == CodeInternal || code == CodeAuthAway || code == CodeCopied {
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// Busy is the refusal of a command that may be sent again later:
// the queue is full, or the agent drains.
func Busy(retryAfter time.Duration, format string, args ...any) *Error {
	e := Refuse(CodeInternal, format, args...)
	e.RetryAfter = retryAfter
	return e
}

// UnknownTask is the one answer for a missing task and
// for a task that the caller may not see (tenant-walls).
func UnknownTask(taskID string) *Error {
	return Refuse(CodeParameter, "task_id: no such task %s", Quote(taskID))
}

// RefuseInstances is the refusal of a batch with one code, naming each instance that it is about.
// why is such as "is being backed up".
func RefuseInstances(code string, ids []string, why string) *Error {
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = Quote(id)
	}
	noun := "instance"
	if len(ids) > 1 {
		noun = "instances"
	}
	return Refuse(code, "%s %s: %s", noun, strings.Join(quoted, ", "), why)
}

// maxQuoted bounds how much of a value from outside an answer or a log line repeats, in bytes.
const maxQuoted = 64

// Quote gives a value from outside for a message: quoted, so that control characters and
// line ends show as escapes, and cut so that a long one fills neither answers nor logs.
func Quote(s string) string {
	if len(s) <= maxQuoted {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes)", cut(s, maxQuoted), len(s))
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

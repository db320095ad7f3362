package obs

import (
	"context"
	"errors"
	"os"
)

// Errors by class. Implementations wrap them with the operation, the object and the server's words; Hint tells
// an operator what to do. Some belong to a wider class, which errors.Is finds too. None but ErrUnavailable is
// ever retried.
var (
	// ErrNotFound says that the object is not there.
	ErrNotFound = newClass(nil, "object not found", "")
	// ErrExists says that the name is taken by other bytes. Names are written once.
	ErrExists = newClass(nil, "object exists with other content", "")
	// ErrCold says that the object is in a storage class whose objects have to be restored before they can be read.
	ErrCold = newClass(nil, "the object is in an archive class and can't be read", "restore the object in the store, and end the "+
		"lifecycle rule that moved it: only classes whose objects can be read at any time are fit for backups")
	// ErrNoBucket says that the bucket (or the folder of a file store) is not there. The message names it.
	ErrNoBucket = newClass(nil, "no such bucket", "make the bucket or folder first, or check the store's URL (--store, or store.url of the agent)")
	// ErrAccess says that the store refused the request for who made it.
	ErrAccess = newClass(nil, "access denied by the store", "check what these credentials may do with the bucket: "+
		"list it, and read, write and delete its objects")
	// ErrNoKeys says that there are no credentials, or half of them. It is an ErrAccess.
	ErrNoKeys = newClass(ErrAccess, "no credentials for the store", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "+
		"(or OBS_ACCESS_KEY_ID and OBS_SECRET_ACCESS_KEY), or write them to a shared credentials file, "+
		"a systemd credential or the instance's role")
	// ErrWrongKeys says that the store does not know the access key, or that the secret is not that key's. It is
	// an ErrAccess.
	ErrWrongKeys = newClass(ErrAccess, "the store does not accept the keys", "check the access key and its secret; "+
		"they may have been deleted, or be those of another cloud or region")
	// ErrExpiredKeys says that temporary keys have ended or lack their token. It is an ErrAccess.
	ErrExpiredKeys = newClass(ErrAccess, "the temporary keys have expired", "get new temporary keys, and set their token as well; "+
		"keys of the instance's role are renewed by themselves while its metadata service answers")
	// ErrClockSkew says that this host's clock and the store's differ by more than the store allows (15 minutes).
	// It is an ErrAccess.
	ErrClockSkew = newClass(ErrAccess, "this host's clock differs from the store's", "set the clock of this host: "+
		"timedatectl status, and see that a time service runs")
	// ErrNoSpace says that the store has no room left, or that a quota is used up.
	ErrNoSpace = newClass(nil, "the store has no space left", "make room in the store, or raise its quota")
	// ErrNoMoney says that the account of the store is in arrears. It is an ErrNoSpace.
	ErrNoMoney = newClass(ErrNoSpace, "the store's account is out of money", "pay what the account owes, or top it up; "+
		"the store takes writes again after that, and deletes objects if it lasts")
	// ErrUnavailable says that the store did not answer, or answered that it can't now; a later try
	// may do. After a failed Put with this error the outcome is unknown.
	ErrUnavailable = newClass(nil, "store unavailable", "try again when the store answers")
	// ErrUsage says that a URL, a key or a range is not of the form that the store takes.
	ErrUsage = newClass(nil, "not usable", "")
	// ErrWrongRegion says that the bucket is in another region than the URL says. It is an ErrUsage.
	ErrWrongRegion = newClass(ErrUsage, "the bucket is in another region", "name the bucket's region in the store's URL: &region=…")
)

// errorClass is one of the errors above.
type errorClass struct {
	wider error // or nil
	says  string
	hint  string // or ""
}

func newClass(wider error, says, hint string) error { return &errorClass{wider, says, hint} }

func (c *errorClass) Error() string { return c.says }
func (c *errorClass) Unwrap() error { return c.wider }

// Hint is what an operator can do about an error of a store, in one sentence; "" where nothing can be said.
func Hint(err error) string {
	var c *errorClass
	if errors.As(err, &c) {
		return c.hint
	}
	return ""
}

// Kind is the class of an error in one word, for metrics and logs: "" for nil, "slow_down" where the store asked for fewer
// requests, "other" for errors that are none of this package's.
func Kind(err error) string {
	var asked interface{ SlowDown() bool }
	if errors.As(err, &asked) && asked.SlowDown() {
		return "slow_down"
	}
	for _, k := range kinds {
		if errors.Is(err, k.is) {
			return k.word
		}
	}
	if err == nil {
		return ""
	}
	return "other"
}

// kinds has the narrower classes first.
var kinds = []struct {
	is   error
	word string
}{
	{context.Canceled, "canceled"},
	{context.DeadlineExceeded, "canceled"},
	{os.ErrClosed, "canceled"},
	{ErrUnavailable, "unavailable"},
	{ErrNotFound, "not_found"},
	{ErrExists, "exists"},
	{ErrCold, "cold"},
	{ErrNoBucket, "no_bucket"},
	{ErrNoKeys, "no_keys"},
	{ErrWrongKeys, "wrong_keys"},
	{ErrExpiredKeys, "expired_keys"},
	{ErrClockSkew, "clock_skew"},
	{ErrAccess, "access"},
	{ErrNoMoney, "no_money"},
	{ErrNoSpace, "no_space"},
	{ErrWrongRegion, "wrong_region"},
	{ErrUsage, "usage"},
}

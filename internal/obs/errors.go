package obs

import (
	"context"
	"errors"
	"os"
)

// Errors by class. Implementations wrap them with the operation, the object and the
// server's words; Hint tells an operator what to do. Some belong to a wider class, which
// errors.Is finds too. Calls that fail with ErrUnavailable are retried; calls that fail
// with ErrOdd or ErrNoHost are retried a few times, because a second attempt may succeed.
var (
	// ErrNotFound says that the object is not there.
	ErrNotFound = newClass(nil, "object not found", "")
	// ErrExists says that the name is taken by other bytes. Names are written once.
	ErrExists = newClass(nil, "object exists with other content", "")
	// ErrCold says that the object is in a storage class whose
	// objects have to be restored before they can be read.
	ErrCold = newClass(nil, "the object is in an archive class and can't be read", "restore the object in the store, and end the "+
		"lifecycle rule that moved it: only classes whose objects can be read at any time are fit for backups")
	// ErrNoBucket says that the bucket (or the folder of a file
	// store) is not there. The message names it.
	ErrNoBucket = newClass(nil, "no such bucket", "make the bucket first, or check the store's URL (--store, or store.url of the agent)")
	// ErrAccess says that the store refused the request because of its sender.
	ErrAccess = newClass(nil, "access denied by the store", "check what these credentials may do with the bucket: "+
		"list it, and read, write and delete its objects")
	// ErrNoKeys says that there are no credentials, or half of them. It is an ErrAccess.
	ErrNoKeys = newClass(ErrAccess, "no credentials for the store", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "+
		"(or OBS_ACCESS_KEY_ID and OBS_SECRET_ACCESS_KEY), or write them to a shared credentials file, "+
		"a systemd credential or the instance's role")
	// ErrWrongKeys says that the store does not know the access key,
	// or that the secret is not that key's. It is an ErrAccess.
	ErrWrongKeys = newClass(ErrAccess, "the store does not accept the keys", "check the access key and its secret; "+
		"they may have been deleted, or be those of another cloud or region")
	// ErrExpiredKeys says that temporary keys have ended or lack their token. It is an ErrAccess.
	ErrExpiredKeys = newClass(ErrAccess, "the temporary keys have expired", "get new temporary keys, and set their token as well; "+
		"keys of the instance's role are renewed by themselves while its metadata service answers")
	// ErrClockSkew says that this host's clock and the store's differ
	// by more than the store allows (15 minutes). It is an ErrAccess.
	ErrClockSkew = newClass(ErrAccess, "this host's clock differs from the store's", "set the clock of this host: "+
		"timedatectl status, and see that a time service runs")
	// ErrPolicy says that a rule forbids the request with any credentials: a rule of the
	// bucket, of an organization or of an end point of the network. It is an ErrAccess.
	ErrPolicy = newClass(ErrAccess, "a policy forbids the request", "look for a rule that denies it: in the bucket's policy, in the "+
		"organization's policies, and in those of the network's end point")
	// ErrKMS says that the store can't use the key by which it encrypts:
	// it is disabled or gone, or these credentials may not use it.
	ErrKMS = newClass(nil, "the store can't use its encryption key", "see that the key of the key management service is there and "+
		"enabled, and that these credentials may use it to encrypt and to decrypt")
	// ErrProxy says that a proxy refused the request.
	ErrProxy = newClass(nil, "the proxy refuses", "check HTTPS_PROXY and NO_PROXY or the proxy in the store's URL, whether the proxy lets "+
		"requests to the store pass, and its user and password ("+proxyCredentials+")")
	// ErrNoHost says that the name service knows no host of the endpoint's name.
	ErrNoHost = newClass(nil, "no such host", "check the endpoint and the region in the store's URL, and this host's name service (/etc/resolv.conf)")
	// ErrNoSpace says that the store has no room left, or that a quota is used up.
	ErrNoSpace = newClass(nil, "the store has no space left", "make room in the store, or raise its quota")
	// ErrQuota says that a quota of the bucket or of the account is used up. It is an ErrNoSpace.
	ErrQuota = newClass(ErrNoSpace, "a quota of the store is used up", "raise the quota of the bucket or of the account, or make room in it")
	// ErrNoMoney says that the account of the store is in arrears. It is an ErrNoSpace.
	ErrNoMoney = newClass(ErrNoSpace, "the store's account is out of money", "pay what the account owes, or top it up; "+
		"the store takes writes again after that, and deletes objects if it lasts")
	// ErrUnavailable says that the store did not answer, or answered that it can't now; a later try
	// may do. After a failed Put with this error the outcome is unknown.
	ErrUnavailable = newClass(nil, "store unavailable", "try again when the store answers")
	// ErrOdd says that no object store gives such an answer, or that the server does
	// not keep to the protocol. A call is repeated a few times for it.
	ErrOdd = newClass(nil, "the answer is not that of an object store", "look at what stands between this host and the store "+
		"(a proxy, a gateway, a load balancer, a page for logging in), and at the endpoint in the store's URL")
	// ErrUsage says that a URL, a key or a range is not of the form that the store takes.
	ErrUsage = newClass(nil, "not usable", "")
	// ErrWrongRegion says that the bucket is in another region than
	// the URL says. It is an ErrUsage.
	ErrWrongRegion = newClass(ErrUsage, "the bucket is in another region", "name the bucket's region in the store's URL: &region=…")

	// Of file stores.

	// ErrNoFolder says that the folder of a file store is not there.
	// It is an ErrNoBucket. The message names the folder.
	ErrNoFolder = newClass(ErrNoBucket, "the store's folder is not there", "see that the disk of the store is mounted, and check the "+
		"store's URL (--store, or store.url of the agent); holdfast store init and holdfast vault create make the folder of a new store")
	// ErrNoMarker says that the folder of a file store is there and
	// has not the marker that a store has. It is an ErrNoBucket.
	ErrNoMarker = newClass(ErrNoBucket, "the folder is no store of Holdfast: the file "+markerName+" is not in it", "see that the disk of the store is "+
		"mounted: an empty mount point looks like this; check the store's URL (--store, or store.url of the agent); only where the folder is to become a "+
		"store, or its file "+markerName+" was deleted: holdfast store init")
	// ErrFolderAccess says that the permissions of the folder do not
	// allow the operation. It is an ErrAccess.
	ErrFolderAccess = newClass(ErrAccess, "the store's folder does not allow it", "check the owner and the permissions of the store's folder, "+
		"of what lies in it and of the folders above it (namei -l shows them), and whether a sandbox confines the program "+
		"(ReadWritePaths of the unit, AppArmor, SELinux)")
	// ErrReadOnly says that the file system of the folder is mounted read-only. It is an ErrAccess.
	ErrReadOnly = newClass(ErrAccess, "the file system of the store's folder is read-only", "mount the disk of the store for writing; the kernel "+
		"itself makes a file system read-only when its disk fails (dmesg tells)")
	// ErrDiskFull says that the disk of the folder is full. It is an ErrNoSpace.
	ErrDiskFull = newClass(ErrNoSpace, "the disk of the store is full", "make room on the disk of the store's folder (df shows its space), "+
		"or move the folder to a larger disk")
	// ErrNoInodes says that the file system of the folder has room
	// for bytes, but not for another file. It is an ErrNoSpace.
	ErrNoInodes = newClass(ErrNoSpace, "the file system of the store has no inodes left", "remove files from the disk of the store's folder "+
		"(df -i shows its inodes), or move the folder to a file system with more inodes; free bytes do not help")
	// ErrDiskQuota says that a quota on the disk of the folder is used up. It is an ErrNoSpace.
	ErrDiskQuota = newClass(ErrNoSpace, "the disk quota is used up", "raise the quota that the user, group or project of the store's folder has "+
		"on its disk (quota shows it), or remove files that count against it")
	// ErrFileSize says that the object is larger than a file may be. It is an ErrNoSpace.
	ErrFileSize = newClass(ErrNoSpace, "the file system of the store takes no file of that size", "move the store's folder to a file system "+
		"with larger files (FAT ends at 4 GiB), or raise the limit on the size of files (ulimit -f)")
	// ErrDisk says that the disk of the folder, or the server of a
	// network file system, failed. It is an ErrUnavailable.
	ErrDisk = newClass(ErrUnavailable, "the disk of the store fails", "see what the kernel says of the disk of the store's folder (dmesg), "+
		"or whether the server of a network file system answers")
	// ErrHostBusy says that this host lacks memory, file descriptors
	// or locks. It is an ErrUnavailable.
	ErrHostBusy = newClass(ErrUnavailable, "this host has no resources left for it", "see what takes the memory and the open files of this host, "+
		"and try again")
	// ErrFileSystem says that the file system of the folder lacks an operation that a store needs.
	ErrFileSystem = newClass(nil, "the file system of the store's folder cannot hold a store", "put the store on another file system "+
		"(ext4, XFS, btrfs and NFS can hold one), or in a bucket")
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

// Hint returns the advice to an operator for an error of a store, in one sentence; ""
// where there is none.
func Hint(err error) string {
	var c *errorClass
	if errors.As(err, &c) {
		return c.hint
	}
	return ""
}

// Kind is the class of an error in one word, for metrics and logs: "" for nil, "slow_down"
// where the store asked for fewer requests, "other" for errors that are none of this package's.
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

// kinds has the narrower classes first. The classes of file stores have the words
// of the wider ones, so that an alert on a full store is the same for every store.
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
	{ErrPolicy, "policy"},
	{ErrAccess, "access"},
	{ErrKMS, "kms"},
	{ErrProxy, "proxy"},
	{ErrNoHost, "no_host"},
	{ErrNoMoney, "no_money"},
	{ErrQuota, "quota"},
	{ErrNoSpace, "no_space"},
	{ErrWrongRegion, "wrong_region"},
	{ErrDamagedOnWay, "damaged_on_way"},
	{ErrOdd, "odd"},
	{ErrUsage, "usage"},
	{ErrFileSystem, "usage"},
}

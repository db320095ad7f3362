package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/obs"
)

// EraseOptions say which vault Erase erases and how.
type EraseOptions struct {
	ID string // of the vault
	// Vault is the vault, opened with a key; nil without
	// one. With the key the hosts of sessions are known.
	Vault *Vault
	// DespiteSessions erases while sessions of writers or readers stand.
	DespiteSessions bool
	// Settle is how long to wait between the two lists at the end, for puts that were under way.
	Settle time.Duration
	// DryRun counts the objects and changes nothing.
	DryRun bool
	// Progress is called after each step, one call at a time. Nil is allowed.
	Progress func(done, found ErasedCount)
	// Warn is told of faults with which Erase goes on. Nil is allowed.
	Warn func(error)
}

// ErasedCount counts objects, or versions of objects.
type ErasedCount struct {
	Objects int    `json:"objects"`
	Bytes   uint64 `json:"bytes"`
}

func (n *ErasedCount) add(size int64) {
	n.Objects++
	n.Bytes += uint64(size)
}

// ErasedHeader is a header of an erased vault.
type ErasedHeader struct {
	Object string `json:"object"`
	SHA256 string `json:"sha256"` // hex
}

// The states of the knowledge about older versions of the objects.
const (
	VersionsNone    = "none"    // the store keeps none
	VersionsRemoved = "removed" // the store kept versions, and all are gone but the kept ones
	VersionsUnknown = "unknown" // the store does not tell, or does not let versions go
)

// Erasure is the result of Erase. Times are by the clock of this host, UTC.
type Erasure struct {
	Vault string    `json:"vault"` // its id
	Store string    `json:"store"`
	Begun time.Time `json:"begun"` // of the first run
	Ended time.Time `json:"ended,omitzero"`
	// Headers are the headers that were found, also by earlier runs that were cut short.
	Headers []ErasedHeader `json:"headers"`
	Runs    int            `json:"runs"` // that erased this vault, as far as their records tell
	// Found counts the objects that stood when the first run began.
	Found ErasedCount `json:"found"`
	// Removed counts the objects that this run removed, by the
	// folder of the vault; "versions" are older versions.
	Removed map[string]ErasedCount `json:"removed"`
	// Kept counts the objects that the store does not let go: locked
	// objects, and objects that these credentials may not delete.
	Kept       ErasedCount `json:"kept"`
	KeptUntil  time.Time   `json:"kept_until,omitzero"`   // when the last lock ends that is known
	KeptReason string      `json:"kept_reason,omitempty"` // of the first one
	Versions   string      `json:"versions"`
	// VersionsReason says why it is not known whether old versions are gone.
	VersionsReason string `json:"versions_reason,omitempty"`
	// HeadersGone says that no header, and no version of one, is
	// in the store: nobody opens the vault with the rest.
	HeadersGone bool        `json:"headers_gone"`
	EmptyLists  []time.Time `json:"empty_lists"` // when a list had nothing but kept objects
	// Complete says that nothing of the vault is in the store.
	Complete bool `json:"complete"`
}

// InUseError names the sessions in a vault that is to be erased.
type InUseError struct {
	Sessions []SessionInfo
	Unknown  int // sessions of which the host is not known, since there is no key
}

func (e *InUseError) Error() string {
	if e.Unknown > 0 {
		return fmt.Sprintf("%v: %d sessions stand, and only a key tells of which hosts", ErrInUse, e.Unknown)
	}
	var who []string
	for _, s := range e.Sessions {
		who = append(who, fmt.Sprintf("%s (process %d)", describeSession(s), s.PID))
	}
	return fmt.Sprintf("%v: %s", ErrInUse, strings.Join(who, ", "))
}

// Is makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// eraser is one erasing under way.
type eraser struct {
	o      EraseOptions
	v      *Vault
	st     obs.Store
	report Erasure
	done   ErasedCount
	locked map[string]bool // keys that the store keeps
	// versions that the store keeps
	versions map[obs.Version]bool
}

// erasing is the record of a run, at ID/erasing/. It is put before the headers go, so that a run
// that goes on after a crash knows their digests; it is not sealed, since the key is about to go.
type erasing struct {
	Begun   time.Time      `json:"begun"`
	Headers []ErasedHeader `json:"headers"`
	Found   ErasedCount    `json:"found"`
}

const (
	eraseRounds      = 5
	maxErasingRecord = 8 << 20
)

// Erase removes a vault from a store for good. The headers go first: from then on nobody can open
// the rest, except a process that has the vault open, and a party that kept its key or a header.
// Then sessions go, so that writers under way find no session and no header, and give up; then
// manifests, index, packs and the rest. Where the bucket keeps versions, the older versions go too.
// Objects that the store does not let go, such as locked objects, stay and are counted.
//
// After an error, and after a kill, Erase may be called again with the id. The Erasure is valid
// after an error too. ErrNoVault, ErrInUse (an *InUseError), or an error of the store.
func Erase(ctx context.Context, st obs.Store, o EraseOptions) (Erasure, error) {
	e := &eraser{o: o, v: keyless(st, o.ID), st: st, locked: map[string]bool{}, versions: map[obs.Version]bool{}}
	e.report = Erasure{Vault: o.ID, Store: st.String(), Begun: time.Now().UTC(), Removed: map[string]ErasedCount{}, Versions: VersionsNone}
	if !isVaultID(o.ID) {
		return e.report, fmt.Errorf("erase: %q is no id of a vault: an id has 32 hex digits", o.ID)
	}
	err := e.run(ctx)
	e.report.Ended = time.Now().UTC()
	return e.report, err
}

func (e *eraser) run(ctx context.Context) error {
	if !e.o.DespiteSessions {
		if err := e.unused(ctx); err != nil {
			return err
		}
	}
	records, err := e.begin(ctx)
	if err != nil || e.o.DryRun {
		return err
	}
	for round := 1; ; round++ {
		if err := e.removeHeaders(ctx); err != nil {
			return err
		}
		for _, folder := range []string{"sessions/", "backups/", "index/", "packs/", ""} {
			if err := e.removeFolder(ctx, folder); err != nil {
				return err
			}
		}
		left, err := e.settled(ctx)
		if err != nil {
			return err
		}
		if left == "" {
			break
		}
		if round == eraseRounds {
			return fmt.Errorf("erase vault %s: objects come back while they are removed, the last one is %s: "+
				"somebody goes on writing; stop the agents of this tenant, and erase again", e.o.ID, left)
		}
	}
	if e.report.Kept.Objects > 0 || !e.report.HeadersGone {
		return nil // the record stays, for the run that removes the rest
	}
	if err := e.st.Delete(ctx, records...); err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	if err := e.removeVersions(ctx, e.o.ID+"/erasing/"); err != nil {
		return err
	}
	e.report.Complete = e.report.Kept.Objects == 0 && e.report.Versions != VersionsUnknown
	return nil
}

// unused is an *InUseError unless no session stands but
// sessions of processes of this host that have ended.
func (e *eraser) unused(ctx context.Context) error {
	if e.o.Vault == nil {
		stand, _, err := e.v.listSessions(ctx, "")
		if err == nil && len(stand) > 0 {
			err = &InUseError{Unknown: len(stand)}
		}
		return err
	}
	live, err := e.o.Vault.liveSessions(ctx)
	if err == nil && len(live) > 0 {
		err = &InUseError{Sessions: live}
	}
	return err
}

// liveSessions returns the sessions of which this host can't tell that their process has ended.
func (v *Vault) liveSessions(ctx context.Context) ([]SessionInfo, error) {
	all, err := v.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	me := observe(SessionOptions{})
	return slices.DeleteFunc(all, func(s SessionInfo) bool { return me.ended(s.body.Process, s.Host) }), nil
}

// begin reads the records of earlier runs, counts the objects, and records this run.
func (e *eraser) begin(ctx context.Context) (records []string, err error) {
	if err := e.earlier(ctx, &records); err != nil {
		return nil, err
	}
	headers, err := headersOf(ctx, e.st, e.o.ID)
	if err != nil {
		return nil, fmt.Errorf("erase: %w", err)
	}
	for _, ref := range headers {
		if ref.size > maxHeader {
			continue // the format allows no such header
		}
		raw, err := readAll(ctx, e.st, ref.key, maxHeader)
		if err != nil {
			return nil, fmt.Errorf("erase: %w", err)
		}
		e.noteHeader(ErasedHeader{ref.key, digest(raw)})
	}
	var found ErasedCount
	for in, err := range e.st.List(ctx, e.o.ID+"/") {
		if err != nil {
			return nil, fmt.Errorf("erase: %w", err)
		}
		if !strings.HasPrefix(in.Key, e.o.ID+"/erasing/") {
			found.add(in.Size)
		}
	}
	keeps, err := obs.KeepsVersions(ctx, e.st)
	switch {
	case err != nil:
		e.unknownVersions(fmt.Errorf("the store does not tell whether it keeps versions: %w", err))
	case keeps:
		e.report.Versions = VersionsRemoved
	}
	if e.report.Runs == 0 {
		_, err := e.st.Stat(ctx, signpostKey(e.o.ID))
		if found.Objects == 0 && errors.Is(err, obs.ErrNotFound) && e.report.Versions != VersionsRemoved {
			return nil, fmt.Errorf("%w: %s in %s", ErrNoVault, e.o.ID, e.st)
		}
		e.report.Found = found
	}
	if e.o.DryRun {
		return records, nil
	}
	e.report.Runs++
	key, err := e.record(ctx, found)
	if err != nil && e.fatal(ctx, err) {
		return nil, fmt.Errorf("erase: %w", err)
	}
	if err != nil {
		// A full store is no reason to keep a vault in it.
		e.warn(fmt.Errorf("the record of this run can't be stored, so a run after a crash would not know the headers: %w", err))
		return records, nil
	}
	return append(records, key), nil
}

// earlier reads the records of earlier runs.
func (e *eraser) earlier(ctx context.Context, keys *[]string) error {
	prefix := e.o.ID + "/erasing/"
	return e.v.readSmall(ctx, prefix, "", maxErasingRecord, copyRecordPattern.MatchString, func(id string, object []byte) error {
		*keys = append(*keys, prefix+id)
		var r erasing
		if err := json.Unmarshal(object, &r); err != nil {
			e.warn(&CorruptError{Object: prefix + id, Reason: "is no record of an erasing: " + err.Error()})
			return nil
		}
		e.report.Runs++
		if r.Begun.Before(e.report.Begun) {
			e.report.Begun = r.Begun
		}
		if r.Found.Objects > e.report.Found.Objects {
			e.report.Found = r.Found
		}
		for _, h := range r.Headers {
			e.noteHeader(h)
		}
		return nil
	})
}

func (e *eraser) noteHeader(h ErasedHeader) {
	if !slices.Contains(e.report.Headers, h) {
		e.report.Headers = append(e.report.Headers, h)
		slices.SortFunc(e.report.Headers, func(a, b ErasedHeader) int { return strings.Compare(a.Object+a.SHA256, b.Object+b.SHA256) })
	}
}

func (e *eraser) record(ctx context.Context, found ErasedCount) (string, error) {
	text, err := json.Marshal(erasing{time.Now().UTC(), e.report.Headers, found})
	if err != nil {
		return "", fmt.Errorf("encode the record of an erasing: %w", err)
	}
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	key := e.o.ID + "/erasing/" + hex.EncodeToString(r[:])
	return key, e.st.Put(ctx, key, text)
}

func (e *eraser) warn(err error) {
	if e.o.Warn != nil {
		e.o.Warn(err)
	}
}

// unknownVersions notes that older versions may be left.
func (e *eraser) unknownVersions(err error) {
	e.report.Versions = VersionsUnknown
	if e.report.VersionsReason == "" {
		e.report.VersionsReason = err.Error()
		e.warn(err)
	}
}

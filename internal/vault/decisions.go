package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A fork is decided once, by a person or the control plane, and all hosts have to know of it. So
// the decision is an object of the vault. It changes no backup: the branch that was not accepted
// stays, and a new backup of that branch makes a fork again.

// Decision says that one head of a forked instance is the newest backup, and not the others.
type Decision struct {
	Instance string    `json:"instance"`
	Number   uint64    `json:"number"` // orders the decisions of an instance; a later one counts more
	Backup   string    `json:"backup"` // the accepted one
	Over     []string  `json:"over"`   // the heads that give way
	Host     string    `json:"host"`   // where it was decided
	Time     time.Time `json:"time"`   // by the clock of that host, for people
	By       string    `json:"by"`     // who decided, in words
}

// decisionBody is the sealed content of a decision's object.
type decisionBody struct {
	Backup string    `cbor:"1,keyasint"`
	Over   []string  `cbor:"2,keyasint"`
	Host   string    `cbor:"3,keyasint"`
	Time   time.Time `cbor:"4,keyasint"`
	By     string    `cbor:"5,keyasint"`
}

const (
	decisionMagic = "HFDECI\x00\x01"
	maxDecision   = 1 << 16
	// maxOver bounds the heads that one decision names.
	maxOver = 256
)

var decisionPattern = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,31})/([0-9]{8})-[0-9a-f]{16}$`)

func (v *Vault) decisionsPrefix() string { return v.info.ID + "/decisions/" }

// Decisions returns the decisions about the forks of an instance, the oldest first. One
// decision that does not open is an error: without it another backup would be the newest.
func (v *Vault) Decisions(ctx context.Context, instance string) ([]Decision, error) {
	if err := CheckInstance(instance); err != nil {
		return nil, err
	}
	type named struct {
		Decision
		name string
	}
	var all []named
	err := v.readSmall(ctx, v.decisionsPrefix(), instance+"/", maxDecision, decisionPattern.MatchString, func(id string, object []byte) error {
		var b decisionBody
		if err := v.openSmall("decision", decisionMagic, v.decisionsPrefix(), id, object, &b); err != nil {
			return err
		}
		n, _ := strconv.ParseUint(decisionPattern.FindStringSubmatch(id)[2], 10, 64) // digits by the pattern
		all = append(all, named{Decision{instance, n, b.Backup, b.Over, b.Host, b.Time, b.By}, id})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the decisions about forks of instance %s: %w", instance, err)
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.name, b.name)) })
	decided := make([]Decision, len(all))
	for i, d := range all {
		decided[i] = d.Decision
	}
	return decided, nil
}

// ErrNoHead says that a backup can't be accepted, since it is not one of the newest ones.
var ErrNoHead = errors.New("it is not the newest backup of a branch")

// Accept decides a fork: the backup of that id is the newest one, and the heads that it does not
// descend from give way. It returns those, none where there is no fork to decide. Accepting twice
// changes nothing. host and by say where and by whom, for people. ErrNoHead, ErrNoBackup.
func (v *Vault) Accept(ctx context.Context, instance, id, host, by string) ([]BackupRef, error) {
	l, err := v.Lineage(ctx, instance)
	if err != nil {
		return nil, err
	}
	tips := l.Tips()
	if !slices.ContainsFunc(l.refs, func(r BackupRef) bool { return r.ID == id }) {
		return nil, fmt.Errorf("accept %q of instance %s: %w: the newest of its branches are %s", id, instance, ErrNoBackup, idsOf(tips))
	}
	of := slices.DeleteFunc(slices.Clone(tips), func(r BackupRef) bool { return !l.Descends(r.ID, id) })
	if len(of) != 1 { // several: that decides nothing

		return nil, fmt.Errorf("accept %s of instance %s: %w: those are %s", id, instance, ErrNoHead, idsOf(tips))
	}
	others := slices.DeleteFunc(l.Heads(), func(r BackupRef) bool { return l.Descends(r.ID, id) })
	accepted := slices.ContainsFunc(l.Heads(), func(r BackupRef) bool { return l.Descends(r.ID, id) })
	if len(others) == 0 && accepted {
		return nil, nil
	}
	if len(others) > maxOver {
		return nil, fmt.Errorf("accept %s of instance %s: it has %d newest backups, more than the %d of one decision", id, instance, len(others), maxOver)
	}
	decided, err := v.Decisions(ctx, instance)
	if err != nil {
		return nil, err
	}
	number := uint64(1)
	if n := len(decided); n > 0 {
		number = decided[n-1].Number + 1
	}
	if number > maxSeq {
		return nil, fmt.Errorf("accept %s of instance %s: a decision has the last number that there is", id, instance)
	}
	body := decisionBody{Backup: id, Host: host, Time: time.Now().UTC(), By: by}
	for _, r := range others {
		body.Over = append(body.Over, r.ID)
	}
	var r [8]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	name := fmt.Sprintf("%s/%08d-%s", instance, number, hex.EncodeToString(r[:]))
	object, err := v.sealSmall("decision", decisionMagic, name, &body)
	if err != nil {
		return nil, err
	}
	if err := v.st.Put(ctx, v.decisionsPrefix()+name, object); err != nil {
		return nil, fmt.Errorf("store the decision about the fork of instance %s: %w", instance, err)
	}
	return others, nil
}

func idsOf(refs []BackupRef) string {
	if len(refs) == 0 {
		return "none"
	}
	ids := make([]string, len(refs))
	for i, r := range refs {
		ids[i] = r.ID
	}
	return strings.Join(ids, ", ")
}

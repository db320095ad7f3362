package vault

import (
	"cmp"
	"context"
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

	name string // of its object
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
	var all []Decision
	err := v.readSmall(ctx, v.decisionsPrefix(), instance+"/", maxDecision, decisionPattern.MatchString, func(id string, object []byte) error {
		var b decisionBody
		if err := v.openSmall("decision", decisionMagic, v.decisionsPrefix(), id, object, &b); err != nil {
			return err
		}
		n, _ := strconv.ParseUint(decisionPattern.FindStringSubmatch(id)[2], 10, 64) // digits by the pattern
		all = append(all, Decision{instance, n, b.Backup, b.Over, b.Host, b.Time, b.By, id})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the decisions about forks of instance %s: %w", instance, err)
	}
	slices.SortFunc(all, func(a, b Decision) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.name, b.name))
	})
	return all, nil
}

// ErrNoHead says that a backup can't be accepted, since it is not one of the newest ones.
var ErrNoHead = errors.New("it is not the newest backup of a branch")

// Accept decides a fork: the backup of that id is the newest one, and the heads that it does not
// descend from give way. It returns those, none where there is no fork to decide. Accepting twice
// changes nothing. host and by say where and by whom, for people. ErrNoHead, ErrNoBackup. An
// earlier decision about the same heads counts no more; see AcceptFirst.
func (v *Vault) Accept(ctx context.Context, instance, id, host, by string) ([]BackupRef, error) {
	others, _, err := v.accept(ctx, instance, id, host, by, true)
	return others, err
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

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
	"time"

	"holdfast/internal/vault/format"
)

// A claim says that a host prepares an instance, or runs it since: no other host
// should. It needs no conditional put. Who claims puts an object of its own, and lists
// after that: of two hosts that claim at once, at least one sees the other, and whoever
// sees another claim withdraws. A claim of a host that is gone is told by the store's
// own times: a living host puts its claim again now and then, under a further number.

// Claim says which host has an instance.
type Claim struct {
	Instance string `json:"instance"`
	ID       string `json:"id"`
	Host     string `json:"host"`
	Identity string `json:"-"`      // of the state folder of the host
	Job      string `json:"job"`    // for which it was last claimed
	Backup   string `json:"backup"` // that was prepared; "" where that is not decided yet
	Seq      uint64 `json:"sequence"`
	// Made is by the clock of the host, for people. Renewed is when the store got the last sign of
	// life, by the clock of the store.
	Made    time.Time `json:"made"`
	Renewed time.Time `json:"renewed"`
	// Over are the claims of other hosts that this one took over, each with its host's tag.
	Over []string `json:"over,omitempty"`
	// Reason is the reason that an operator gave to take claims over; "" where none did.
	Reason string `json:"reason,omitempty"`
	// Origin is the job by which the host came to have the claim. Later jobs claim the instance
	// again, and leave Origin as it is. A claim that is damaged has none.
	Origin string `json:"-"`
	// Every is the longest time between two signs of life of the host, as it says; 0: unknown.
	Every time.Duration `json:"-"`

	tag  string
	beat uint64
	keys []string // of its objects
}

// claimBody is the sealed content of a claim's object.
type claimBody struct {
	Host     string    `cbor:"1,keyasint"`
	Identity string    `cbor:"2,keyasint"`
	Job      string    `cbor:"3,keyasint"`
	Backup   string    `cbor:"4,keyasint"`
	Seq      uint64    `cbor:"5,keyasint"`
	Made     time.Time `cbor:"6,keyasint"`
	Over     []string  `cbor:"7,keyasint,omitempty"`
	Reason   string    `cbor:"8,keyasint,omitempty"`
	Origin   string    `cbor:"9,keyasint,omitempty"`
	Every    uint64    `cbor:"10,keyasint,omitempty"` // seconds
}

const (
	claimMagic = "HFCLAI\x00\x01"
	maxClaim   = 1 << 14
	maxBeat    = 99_999_999
	// maxTaken bounds the claims of other hosts that one claim names.
	maxTaken = 64
	// claimSigns is how many signs of life in a row have to be
	// missing before a host counts as gone.
	claimSigns = 4
	// maxEvery bounds what a claim says about the signs of life of its host, in seconds.
	maxEvery = 24 * 60 * 60
)

var claimPattern = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,31})/([0-9a-f]{16})-([0-9a-f]{16})-([0-9]{8})$`)

// ClaimOptions say who claims what.
type ClaimOptions struct {
	Instance string
	Host     string // name of the host, for people
	Identity string // tells this host from all others; required
	Job      string
	Backup   string
	Seq      uint64
	// Silence is for how long a host gives no sign of life, by the clock of the store, until
	// another one takes its claim over; 0: for ever. A claim whose host says that it gives signs
	// of life more seldom counts for longer; see Claim.Outlasts.
	Silence time.Duration
	// Every is the longest time between two calls of KeepClaims of this host; 0: unknown.
	Every time.Duration
	// Keeps tells whether a claim that this host has already is the host's own
	// apart from Job; if not, Job becomes its Origin. nil: it is.
	Keeps func(Claim) bool
	// Writers looks for backups of the instance that other hosts have under way, too.
	Writers bool
	// TakeOver takes over every claim of other hosts, as an operator commands it.
	TakeOver bool
	// Reason is why, for people; see MaxReason.
	Reason string
}

// MaxReason bounds the reason in a claim, bytes.
const MaxReason = 1024

// ClaimedError says that other hosts have an instance.
type ClaimedError struct {
	Claims []Claim // of other hosts, never empty
	// Host is the name of the host that is refused.
	Host string
	// Both says that this host claimed the instance at
	// the same moment as the other one, and withdrew.
	Both bool
}

func (e *ClaimedError) Error() string {
	c := e.Claims[0]
	if c.Host == e.Host {
		return fmt.Sprintf("an earlier state folder of this host, or a second host with the name %s, has claimed instance %s (for job %s, made %s by its clock); "+
			"if no second host has that name, take the claim over (holdfast claim take-over --force)", c.Host, c.Instance, c.Job, c.Made.UTC().Format("2006-01-02 15:04:05Z"))
	}
	if e.Both {
		return fmt.Sprintf("host %s claims instance %s at this very moment; command it again on the host that is to have it", c.Host, c.Instance)
	}
	return fmt.Sprintf("host %s has claimed instance %s (for job %s, made %s by its clock) and gives signs of life; release the instance there first",
		c.Host, c.Instance, c.Job, c.Made.UTC().Format("2006-01-02 15:04:05Z"))
}

// Outlasts is for how long the claim counts without a sign of life of its host, for a host that
// is configured with that silence: at least for as long as several signs of life take. 0: for ever.
func (c Claim) Outlasts(silence time.Duration) time.Duration {
	if silence <= 0 {
		return 0
	}
	return max(silence, claimSigns*c.Every)
}

// silent tells whether the host of the claim gave no sign of life for that long.
func (c Claim) silent(since, silence time.Duration) bool {
	return silence > 0 && since > c.Outlasts(silence)
}

// ErrClaimLost says that a claim of this host is not
// in the vault any more: another host took it over.
var ErrClaimLost = errors.New("another host took the claim over")

func (v *Vault) claimsPrefix() string { return v.info.ID + "/claims/" }

// claimTag begins the names of the claims of one host, so that the host finds them without reading.
func (v *Vault) claimTag(identity string) string {
	k := format.Subkey(v.meta, "host", []byte(identity))
	return hex.EncodeToString(k[:8])
}

// listClaims lists the claims on an instance, or on all with "", by their names alone.
func (v *Vault) listClaims(ctx context.Context, instance string) ([]Claim, error) {
	prefix := v.claimsPrefix()
	if instance != "" {
		if err := CheckInstance(instance); err != nil {
			return nil, err
		}
		prefix += instance + "/"
	}
	byID := map[string]*Claim{}
	for info, err := range v.st.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("list claims: %w", err)
		}
		m := claimPattern.FindStringSubmatch(info.Key[len(v.claimsPrefix()):])
		if m == nil {
			continue
		}
		c := byID[m[1]+"/"+m[3]]
		if c == nil {
			c = &Claim{Instance: m[1], tag: m[2], ID: m[3]}
			byID[m[1]+"/"+m[3]] = c
		}
		c.keys = append(c.keys, info.Key)
		beat, _ := strconv.ParseUint(m[4], 10, 64) // digits by the pattern
		if beat >= c.beat {
			c.beat, c.Renewed = beat, info.Modified
		}
	}
	var all []Claim
	for _, c := range byID {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Claim) int { return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

func (c *Claim) name(beat uint64) string {
	return fmt.Sprintf("%s/%s-%s-%08d", c.Instance, c.tag, c.ID, beat)
}

// readClaim reads the last object of a claim. An object that was deleted meanwhile is gone.
func (v *Vault) readClaim(ctx context.Context, c *Claim) (gone bool, err error) {
	gone = true
	name := c.name(c.beat)
	err = v.readSmall(ctx, v.claimsPrefix(), name, maxClaim, func(id string) bool { return id == name }, func(id string, object []byte) error {
		var b claimBody
		if err := v.openSmall("claim", claimMagic, v.claimsPrefix(), id, object, &b); err != nil {
			return err
		}
		gone = false
		c.Host, c.Identity, c.Job, c.Backup, c.Seq, c.Made, c.Over, c.Reason = b.Host, b.Identity, b.Job, b.Backup, b.Seq, b.Made, b.Over, b.Reason
		c.Origin, c.Every = b.Origin, time.Duration(min(b.Every, maxEvery))*time.Second
		return nil
	})
	return gone, err
}

// damagedClaim stands in the place of the host in a claim that does not open.
const damagedClaim = "an unknown host (its claim is damaged)"

// seeClaim is readClaim for a list of claims: a claim that does not open is there, with an unknown
// host.
func (v *Vault) seeClaim(ctx context.Context, c *Claim) (gone bool, err error) {
	gone, err = v.readClaim(ctx, c)
	if errors.Is(err, ErrCorrupt) {
		c.Host = damagedClaim
		return false, nil
	}
	return gone, err
}

// claimRounds is how often the claims are listed while hosts renew
// theirs. A renewal deletes the object that the list has, so a claim
// that is gone when it is read may stand under its next number.
const claimRounds = 10

// Claims returns the claims on an instance, or on all instances with
// "". A claim that does not open is in the list, with an unknown host.
func (v *Vault) Claims(ctx context.Context, instance string) ([]Claim, error) {
	for range claimRounds {
		listed, err := v.listClaims(ctx, instance)
		if err != nil {
			return nil, err
		}
		var all []Claim
		changed := false
		for _, c := range listed {
			gone, err := v.seeClaim(ctx, &c)
			if err != nil {
				return nil, fmt.Errorf("read claims: %w", err)
			}
			if changed = changed || gone; !gone {
				all = append(all, c)
			}
		}
		if !changed {
			return all, nil
		}
	}
	return nil, errors.New("read claims: other hosts change the claims all the time; try again")
}

// putClaim stores a claim under its next number.
func (v *Vault) putClaim(ctx context.Context, c *Claim) error {
	if c.beat >= maxBeat {
		return fmt.Errorf("claim on instance %s: it has the last number that there is", c.Instance)
	}
	name := c.name(c.beat + 1)
	object, err := v.sealSmall("claim", claimMagic, name, &claimBody{
		Host: c.Host, Identity: c.Identity, Job: c.Job, Backup: c.Backup, Seq: c.Seq, Made: c.Made, Over: c.Over, Reason: c.Reason,
		Origin: c.Origin, Every: uint64(c.Every / time.Second), //nolint:gosec // never negative
	})
	if err != nil {
		return err
	}
	if err := v.st.Put(ctx, v.claimsPrefix()+name, object); err != nil {
		return fmt.Errorf("store claim on instance %s: %w", c.Instance, err)
	}
	c.beat++
	return nil
}

// Claim claims an instance for a host, and returns the claims of other hosts that it took over. A
// host that has a claim on it renews that one. *ClaimedError where another host has the instance.
func (v *Vault) Claim(ctx context.Context, o ClaimOptions) (taken []Claim, err error) {
	switch {
	case o.Identity == "":
		return nil, fmt.Errorf("claim instance %s: this host has no identity that lasts", o.Instance)
	case len(o.Reason) > MaxReason:
		return nil, fmt.Errorf("claim instance %s: the reason has %d bytes, more than %d", o.Instance, len(o.Reason), MaxReason)
	}
	end, err := v.claiming.take(ctx, o.Instance)
	if err != nil {
		return nil, fmt.Errorf("claim instance %s: wait for the renewal of the claim: %w", o.Instance, err)
	}
	defer end()
	before, err := v.listClaims(ctx, o.Instance)
	if err != nil {
		return nil, err
	}
	tag := v.claimTag(o.Identity)
	mine, fresh, err := v.ownClaim(ctx, o, before)
	if err != nil {
		return nil, fmt.Errorf("claim instance %s: read the claim of this host: %w", o.Instance, err)
	}
	if err := v.putClaim(ctx, &mine); err != nil {
		return nil, err
	}
	// Whoever claims at the same moment lists after its put too, so one of the two sees the other.
	now, err := v.Claims(ctx, o.Instance)
	if err != nil {
		return nil, errors.Join(err, v.withdraw(ctx, mine, fresh))
	}
	i := slices.IndexFunc(now, func(c Claim) bool { return c.tag == tag && c.ID == mine.ID })
	if i < 0 {
		return nil, fmt.Errorf("claim instance %s: %w", o.Instance, ErrClaimLost)
	}
	var living []Claim
	both := true
	for _, c := range now {
		switch {
		case c.tag == tag:
		case o.TakeOver, c.silent(now[i].Renewed.Sub(c.Renewed), o.Silence):
			taken = append(taken, c)
		case slices.Contains(mine.Over, c.tag+"-"+c.ID):
			// Its host renewed it while it was taken over; it goes now.
		default:
			living = append(living, c)
			both = both && !slices.ContainsFunc(before, func(b Claim) bool { return b.ID == c.ID })
		}
	}
	if o.Writers && !o.TakeOver && len(living) == 0 {
		if err := v.writes(ctx, o, now[i].Renewed); err != nil {
			return nil, errors.Join(err, v.withdraw(ctx, mine, fresh))
		}
	}
	if len(living) > 0 {
		return nil, errors.Join(&ClaimedError{Claims: living, Host: o.Host, Both: both && fresh}, v.withdraw(ctx, mine, fresh))
	}
	if len(taken) > 0 { // so that their hosts learn of it, should they be alive after all
		for _, c := range taken {
			mine.Over = append(mine.Over, c.tag+"-"+c.ID)
		}
		mine.Over, mine.Reason = mine.Over[max(0, len(mine.Over)-maxTaken):], o.Reason
		if err := v.putClaim(ctx, &mine); err != nil {
			return nil, errors.Join(err, v.withdraw(ctx, mine, fresh))
		}
		now = append(now, Claim{keys: []string{v.claimsPrefix() + mine.name(mine.beat-1)}})
	}
	var old []string
	last := v.claimsPrefix() + mine.name(mine.beat)
	for _, c := range now {
		for _, key := range c.keys {
			if key != last {
				old = append(old, key)
			}
		}
	}
	if len(old) > 0 {
		if err := v.st.Delete(ctx, old...); err != nil {
			return taken, fmt.Errorf("remove claims on instance %s that ended: %w", o.Instance, err)
		}
	}
	return taken, nil
}

// ownClaim is the claim that Claim puts: the claim of the host, with all that it says about the
// claims that it took over, or else a fresh one. before are the claims on the instance.
func (v *Vault) ownClaim(ctx context.Context, o ClaimOptions, before []Claim) (mine Claim, fresh bool, err error) {
	tag := v.claimTag(o.Identity)
	fresh = true
	if i := slices.IndexFunc(before, func(c Claim) bool { return c.tag == tag }); i >= 0 {
		mine = before[i]
		fresh, err = v.readClaim(ctx, &mine) // a claim that is gone was taken over since it was listed
		switch {
		case errors.Is(err, ErrCorrupt):
			fresh = false // it is put anew
		case err != nil:
			return mine, false, err
		case !fresh && o.Keeps != nil && !o.Keeps(mine):
			mine.Origin = o.Job
		}
	}
	if fresh {
		var r [8]byte
		_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
		mine = Claim{Instance: o.Instance, tag: tag, ID: hex.EncodeToString(r[:]), Origin: o.Job}
	}
	mine.Host, mine.Identity, mine.Job, mine.Backup, mine.Seq, mine.Made, mine.Every = o.Host, o.Identity, o.Job, o.Backup, o.Seq, time.Now().UTC(), o.Every
	return mine, fresh, nil
}

// WritesError says that another host has a backup of an instance under way.
type WritesError struct {
	Instance, Host string
	// Own says that Host is the name of the host that is refused, too.
	Own bool
}

func (e *WritesError) Error() string {
	if e.Own {
		return fmt.Sprintf("an earlier state folder of this host, or a second host with the name %s, is backing up instance %s; command it again when that backup is over",
			e.Host, e.Instance)
	}
	return fmt.Sprintf("host %s is backing up instance %s; command it again when that backup is over", e.Host, e.Instance)
}

// writes is a *WritesError where another host has a backup of the instance under way. A session
// that is older than the silence, by the clock of the store, may be of a host that is gone.
func (v *Vault) writes(ctx context.Context, o ClaimOptions, now time.Time) error {
	hosts, err := v.named(ctx, o.Identity, func(put time.Time) bool { return namingSilent(now.Sub(put), o.Silence) })
	if err != nil {
		return fmt.Errorf("look for backups that other hosts have under way: %w", err)
	}
	if host, busy := hosts[o.Instance]; busy {
		return &WritesError{Instance: o.Instance, Host: host, Own: host == o.Host}
	}
	return nil
}

// withdraw removes what Claim has put for a claim that it made anew.
func (v *Vault) withdraw(ctx context.Context, c Claim, fresh bool) error {
	if !fresh {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := v.st.Delete(ctx, v.claimsPrefix()+c.name(c.beat)); err != nil {
		return fmt.Errorf("withdraw the claim on instance %s: %w", c.Instance, err)
	}
	return nil
}

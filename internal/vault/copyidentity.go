package vault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"holdfast/internal/obs"
)

// Before a copy puts anything, it has to know that the destination holds nothing, or a copy of the
// same vault: a header of a later generation over another vault would make that vault unreadable.

// meet is ErrOtherVault unless the destination is free or has the source's vault.
func (c *copier) meet(ctx context.Context) error {
	if len(c.to.headers) == 0 {
		if len(c.to.backups)+len(c.to.index)+len(c.to.packs) == 0 || c.inCommon() {
			return nil
		}
		return fmt.Errorf("%w: objects below %s/ in %s belong to a vault without a header, and the source has none of them; "+
			"bring that header back, or move these objects away", ErrOtherVault, c.o.ID, c.dst.st)
	}
	for _, there := range c.to.headers {
		for _, here := range c.from.headers {
			if here.key != there.key {
				continue
			}
			same, err := c.sameHeader(ctx, here, there)
			if err != nil || same {
				return err
			}
			return fmt.Errorf("%w: the header %s in %s is not the header of the source", ErrOtherVault, there.key, c.dst.st)
		}
	}
	// A rekey replaced the header since the last copy.
	if c.o.Vault != nil {
		return c.meetByKey(ctx, c.to.headers[len(c.to.headers)-1])
	}
	a, err := publicHeader(ctx, c.src.st, c.from.headers[len(c.from.headers)-1])
	if err != nil {
		return err
	}
	b, err := publicHeader(ctx, c.dst.st, c.to.headers[len(c.to.headers)-1])
	if err != nil {
		return err
	}
	if a.ID == b.ID && a.Created.Equal(b.Created) && a.Params == b.Params && c.inCommon() {
		return nil // names of objects are random, so the destination has them from this vault
	}
	return fmt.Errorf("%w: no header in %s is one of the source, and without a key nobody can tell whether both are of one vault; "+
		"give the key of the source", ErrOtherVault, c.dst.st)
}

// meetByKey checks the MAC of the destination's header with the key of the source's vault.
func (c *copier) meetByKey(ctx context.Context, ref headerRef) error {
	err := c.dst.readOwnHeader(ctx, ref)
	switch {
	case errors.Is(err, ErrCorrupt):
		return fmt.Errorf("%w: the header %s in %s is not one of the source's vault", ErrOtherVault, ref.key, c.dst.st)
	case err != nil:
		return fmt.Errorf("copy: destination: %w", err)
	}
	return nil
}

// inCommon tells whether an object of a random name is on both sides, in one size.
func (c *copier) inCommon() bool {
	if comparePackRefs(c.from.packs, c.to.packs).same > 0 || comparePackRefs(c.from.index, c.to.index).same > 0 {
		return true
	}
	here := backupSet(c.from.backups)
	for _, ref := range c.to.backups {
		if here[backupName(ref)] {
			return true
		}
	}
	return false
}

// sameHeader compares a header of one name on both sides.
func (c *copier) sameHeader(ctx context.Context, here, there headerRef) (bool, error) {
	if here.size > maxHeader || here.size != there.size {
		return false, nil
	}
	var buf []byte
	doc, err := readWhole(ctx, c.src.st, here.key, here.size, &buf)
	if err != nil {
		return false, fmt.Errorf("copy: source: %w", err)
	}
	switch is, err := compare(obs.Afresh(ctx), c.dst.st, there.key, doc); is {
	case sameBytes:
		return true, nil
	case otherBytes:
		return false, nil
	default:
		return false, fmt.Errorf("copy: destination: %w", err)
	}
}

// publicHeader reads the part of a header that everybody can read. Nothing proves it.
func publicHeader(ctx context.Context, st obs.Store, ref headerRef) (h header, err error) {
	raw, err := readAll(ctx, st, ref.key, maxHeader)
	if err != nil {
		return h, fmt.Errorf("copy: %w", err)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err == nil {
		err = json.Unmarshal(doc.Vault, &h)
		if err == nil {
			return h, nil
		}
	}
	return h, &CorruptError{Object: ref.key, Reason: "is no vault header"}
}

const (
	// copyRecordMagic begins an object that names the manifests that a copy is about to put.
	copyRecordMagic = "HFCOPY 1\n"
	maxCopyRecord   = 256 << 20
	// recordsKept is how many records stand before they are put together in one.
	recordsKept = 32
)

var copyRecordPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (c *copier) recordsPrefix() string { return c.o.ID + "/copied/" }

// mark names in the destination the manifests that this copy is about to put, so that a later one
// can tell them from backups that hosts made in the destination. The record is the first object
// of a copy, and must not show up in the source: then both are one store.
func (c *copier) mark(ctx context.Context) error {
	names := backupsWithout(c.from.backups, backupSet(c.to.backups))
	suspicious := len(names) == 0 && c.report.Packs.Missing == 0 && c.report.Headers.Missing == 0
	if len(names) == 0 && !suspicious {
		return nil
	}
	if suspicious && !c.sameTimes(ctx) {
		return nil
	}
	key, err := c.putRecord(ctx, names)
	if err != nil {
		return err
	}
	_, err = c.src.st.Stat(obs.Afresh(ctx), key)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		if len(names) == 0 {
			if err := c.dst.st.Delete(ctx, key); err != nil {
				c.warn(fmt.Errorf("the empty record %s stays in the destination: %w", key, err))
			}
		}
		return nil
	case err != nil:
		return fmt.Errorf("copy: source: %w", err)
	}
	return errors.Join(fmt.Errorf("%w: %s and %s", ErrSameStore, c.src.st, c.dst.st), c.dst.st.Delete(ctx, key))
}

// sameTimes tells whether both sides say that the
// header was stored at one time, as one store would.
func (c *copier) sameTimes(ctx context.Context) bool {
	key := c.from.headers[len(c.from.headers)-1].key
	a, err := c.src.st.Stat(ctx, key)
	b, berr := c.dst.st.Stat(ctx, key)
	return err != nil || berr != nil || a.Modified.Equal(b.Modified)
}

func (c *copier) putRecord(ctx context.Context, refs []BackupRef) (string, error) {
	var text bytes.Buffer
	text.WriteString(copyRecordMagic)
	for _, r := range refs {
		text.WriteString(backupName(r) + "\n")
	}
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	key := c.recordsPrefix() + hex.EncodeToString(r[:])
	if err := c.dst.st.Put(ctx, key, text.Bytes()); err != nil {
		return "", fmt.Errorf("copy: destination: %w", err)
	}
	return key, nil
}

// records reads the names of all manifests that copies have put, and the keys of the records.
func (c *copier) records(ctx context.Context) (names map[string]bool, keys []string, err error) {
	names = map[string]bool{}
	err = c.dst.readSmall(ctx, c.recordsPrefix(), "", maxCopyRecord, copyRecordPattern.MatchString, func(id string, object []byte) error {
		key := c.recordsPrefix() + id
		text, ok := strings.CutPrefix(string(object), copyRecordMagic)
		if !ok {
			return &CorruptError{Object: key, Reason: "is no record of a copy"}
		}
		for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
			names[lines.Text()] = true
		}
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("copy: destination: %w", err)
	}
	return names, keys, nil
}

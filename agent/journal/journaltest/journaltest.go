// Package journaltest changes the records of a journal's file by hand, for tests of the journal's
// damage. Only tests import it.
package journaltest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// Tx is a transaction on the file.
type Tx = bbolt.Tx

// Bucket has the records of one kind.
type Bucket = bbolt.Bucket

// Edit changes the records of a journal that nobody has open, in one transaction.
func Edit(t testing.TB, path string, do func(tx *Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(db.Update(do), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// First changes the first record of a bucket whose key has the prefix.
func First(bucket, prefix string, change func(b *Bucket, k, v []byte) error) func(tx *Tx) error {
	return func(tx *Tx) error {
		b := tx.Bucket([]byte(bucket))
		k, v := b.Cursor().Seek([]byte(prefix))
		if k == nil || !strings.HasPrefix(string(k), prefix) {
			return fmt.Errorf("%s has no record %q", bucket, prefix)
		}
		return change(b, slices.Clone(k), slices.Clone(v))
	}
}

// Damaged cuts a record in half.
func Damaged(b *Bucket, k, v []byte) error { return b.Put(k, v[:len(v)/2]) }

// Replaced replaces a text in a record.
func Replaced(old, with string) func(b *Bucket, k, v []byte) error {
	return func(b *Bucket, k, v []byte) error {
		changed := strings.Replace(string(v), old, with, 1)
		if changed == string(v) {
			return fmt.Errorf("%s has no %s", v, old)
		}
		return b.Put(k, []byte(changed))
	}
}

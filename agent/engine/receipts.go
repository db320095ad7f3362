package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/reread"
)

// receipts signs this host's statements about backups.
type receipts struct {
	self    Self
	signing *Signing             // nil in a life that recovers without the key
	store   string               // the store's name
	up      func() time.Duration // the journal's clock
}

// Receipt is called while the instance is still held, so its freeze counts up to now.
func (r receipts) Receipt(ctx context.Context, j *model.Job) (json.RawMessage, error) {
	res := j.Result
	if r.signing == nil {
		return nil, errors.New("the signing key could not be opened at the start; put signing_key_file right and restart the agent")
	}
	return r.signing.Signer().Sign(ctx, report.Statement{
		Instance: j.Instance, Tenant: j.Tenant, Task: j.Task, Job: j.ID,
		Vault: res.VaultID, Backup: res.BackupID, Sequence: res.Seq, Parent: res.Parent, Object: res.Object, ManifestSHA256: res.ManifestSHA256,
		Store: r.store, Files: res.Files, Dirs: res.Dirs, Bytes: res.Bytes, BytesSent: res.BytesSent,
		Compressed: res.Compressed, CompressedWhy: res.CompressedWhy,
		Frozen: j.HeldSince, Hold: string(j.Mode), FreezeSeconds: j.FreezeSeconds(r.up()), Stored: j.Entered[model.Stored], Verified: res.Verified,
		ChunksReadBack: res.Sampled, ChunksReadBackReused: res.SampledReused, Verification: res.Depth, Warnings: res.Warnings,
		LossesAccepted: res.LossesAccepted, Host: r.self.Host, Identity: r.self.Identity.ID, Agent: r.self.Version, Fork: res.Fork,
	})
}

// Signing is the key that signs receipts. While its file is no good the last good
// key signs: an instance stands still for a receipt. It is safe for concurrent use.
type Signing struct {
	file *reread.Files[*report.Signer]
	tell func(err error) // why the file is no good; nil when it is good again

	mu    sync.Mutex
	fault bool // tell was told
}

// OpenSigning reads the file, or makes it.
func OpenSigning(path string, tell func(error)) (*Signing, error) {
	if _, err := report.LoadSigner(path, rand.Reader); err != nil {
		return nil, err
	}
	s := &Signing{file: reread.New(nil, func() (*report.Signer, error) { return report.ReadSigner(path) }, path), tell: tell}
	_, err := s.file.Get()
	return s, err
}

// Signer is the key as its file has it, or the last good one.
func (s *Signing) Signer() *report.Signer {
	key, err := s.file.Last()
	s.mu.Lock()
	changed := s.fault != (err != nil)
	s.fault = err != nil
	s.mu.Unlock()
	if changed {
		s.tell(err)
	}
	return key
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/backup/blockshare"
	"holdfast/internal/backup/known"
	"holdfast/internal/contain"
	"holdfast/internal/pulse"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

const progressEvery = 200 * time.Millisecond // of Progress

// once makes a backup that does not use the packs lost; first says that nothing was tried before.
func once(ctx context.Context, o Options, job *Job, lost []vault.PackID, first bool) (*Result, error) {
	r := &run{
		o: o, job: job, lost: lost, first: first,
		governor: newGovernor(o.MinLevel, o.MaxLevel), started: time.Now(), sending: blockshare.NewArrivals(o.Precopy),
	}
	var err error
	if r.slot, err = o.Pool.admit(ctx, first); err != nil {
		return nil, err
	}
	defer r.slot.watch(ctx)()
	r.warnings.Tell = o.Warn
	r.res.Stages, r.res.Catalogues = map[string]time.Duration{}, map[string]string{}
	r.booted = o.Clock()
	r.res.Created = o.Now().UTC()
	stop := r.tellProgress()
	err = r.underSession(ctx)
	r.sending.End()
	stop()
	r.history.Close()
	if err != nil {
		return nil, err
	}
	return r.result(), nil
}

// underSession does the work in the session of the job,
// which keeps the vault's packs from being collected.
func (r *run) underSession(ctx context.Context) error {
	s, err := r.job.under(ctx, r.o.Vault, vault.SessionOptions{
		Host: r.o.Host, Identity: r.o.Identity, Instance: r.o.Instance,
		Warn: func(err error) {
			r.warnings.Warn(tree.Warning{NoPlace: true, What: err.Error() + "; garbage stays in the vault meanwhile"})
		},
		Mended:  func(err error) { r.warnings.Warn(tree.Warning{NoPlace: true, What: err.Error()}) },
		Settled: func(so vault.Settled) { r.warnings.Warn(tree.Warning{NoPlace: true, What: so.String()}) },
	})
	if err != nil {
		return err
	}
	r.session = s
	r.without = slices.Concat(r.job.avoided(), r.lost)
	err = r.backUp(ctx)
	if errors.Is(err, vault.ErrSessionGone) {
		_ = r.job.lost(ctx) // the session is gone already
	}
	return err
}

// newHistory prepares the questions to the catalogues and the store.
func (r *run) newHistory(ctx context.Context) *known.History {
	without := make(map[vault.PackID]bool, len(r.without))
	for _, id := range r.without {
		without[id] = true
	}
	return known.NewHistory(ctx, known.Facts{
		Vault: r.o.Vault, Instance: r.o.Instance, Host: r.o.Host, Catalogues: r.o.CatalogueDir, Precopy: r.o.Precopy,
		Created: r.res.Created, Booted: r.booted, Clock: r.o.Clock, Without: without, Distrusted: &r.o.Pool.distrusted, Warn: r.warnings.Warn,
	})
}

func (r *run) backUp(ctx context.Context) (err error) {
	start := time.Now() // of the process's clock, which does not jump: the stages are durations
	var beside contain.Group
	asking, end := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			end() // an instance may stand still meanwhile
		}
		if panicked := beside.Wait(); err == nil {
			err = panicked
		}
		end()
	}()
	volumes := volumesOf(r.o.Sources)
	r.history = r.newHistory(asking)
	beside.Go(func() error { r.history.AskAhead(volumes); return nil })
	w, err := r.o.Vault.NewWriter(ctx, vault.WriterOptions{
		Buffers: r.o.Pool.buffers, Background: r.o.Precopy, Intent: r.o.PackIntent, Resume: r.o.Resume,
		Without: r.job.avoided(), Lost: r.lost, IndexDir: r.o.IndexDir, Looks: r.session.looks,
		Warn: func(err error) {
			r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("index of the vault: %v; what it does not find is stored anew", err)})
		},
		Confirmed: r.confirmed,
		Sent: func(id vault.PackID, n int64) {
			r.counts.sent.Add(uint64(n))
			r.sending.Sent(id)
		},
	})
	if err != nil {
		return err
	}
	r.w, r.packs = w, w.NamePacks(ctx, r.sending.Pending)
	defer r.packs.Stop()
	var stored []vault.Volume
	if err := r.history.Mounted(ctx, volumes); err != nil {
		_ = w.Abort(err) // nothing was sent
		return err
	}
	for _, s := range r.o.Sources {
		vol, err := r.volume(ctx, s)
		if err != nil {
			if _, named := errors.AsType[*known.UnmountedError](err); !named {
				err = fmt.Errorf("volume %s: %w", s.Volume, err)
			}
			// When ctx ended while uploads waited for the store, they name the reason for the wait.
			if serr := w.Abort(err); serr != nil && ctx.Err() != nil {
				err = serr
			}
			return err
		}
		stored = append(stored, vol)
	}
	r.walked.Store(true)
	r.stage("pipeline", &start)

	var lost []vault.LostPack
	// stays where it panics
	sampleErr := errors.New("the look at packs of earlier backups did not end")
	sampled := make(chan struct{})
	beside.Go(func() error {
		defer close(sampled)
		lost, sampleErr = r.sampleReused(asking)
		return nil
	})
	if _, err = w.Finish(ctx); err != nil {
		return err
	}
	if err := r.sending.Wait(ctx); err != nil {
		return err
	}
	r.stage("finish", &start)
	// In a round too: a loss that shows at the end lets the instance stand still for two backups.
	refs, err := r.refs(ctx, func() ([]vault.LostPack, error) {
		<-sampled
		return lost, sampleErr
	})
	if err != nil {
		return err
	}
	if r.o.Accept != nil {
		if err := r.o.Accept(ctx, r.result()); err != nil {
			return err
		}
	}
	// the manifest rests on nothing of it, and it takes as long
	beside.Go(func() error { r.tidy(asking); return nil })
	if !r.o.Precopy {
		if err := r.commit(ctx, stored, refs); err != nil {
			return err
		}
	}
	r.history.Keep(func(volume, id string) { r.res.Catalogues[volume] = id })
	r.stage("verify", &start)
	return nil
}

// confirmed makes room for another backup, since the rest takes small requests and no memory of the
// host, and looks at the packs that were added: a backup whose packs do not open never comes to be.
func (r *run) confirmed(ctx context.Context, added []vault.PackRef) error {
	if err := r.slot.finish(ctx); err != nil {
		return err
	}
	if r.o.Sent != nil {
		r.o.Sent()
	}
	return r.sampleNew(ctx, added)
}

// commit writes the manifest, after every pack was confirmed and
// looked at. refs are all packs of the backup.
func (r *run) commit(ctx context.Context, volumes []vault.Volume, refs []vault.PackRef) error {
	r.res.Contents = map[string]uint64{}
	for _, v := range volumes {
		r.res.Bytes += v.Bytes
		r.res.Contents[v.Name] = v.Content()
	}
	earlier, err := r.history.Earlier()
	if err != nil {
		return err
	}
	seq, last, err := r.o.Vault.NextSeq(r.o.Instance, earlier)
	if err != nil {
		return err
	}
	r.tellClock(earlier)
	// Once more: another host may have made a backup since this one began, which makes a fork.
	lineage, err := r.o.Vault.Lineage(ctx, r.o.Instance)
	if err != nil {
		return err
	}
	parent := r.parent(lineage, last)
	seq = max(seq, vault.SeqOf(parent)+1)
	named, lost, accepted := r.losses.sum()
	m := &vault.Manifest{
		Instance: r.o.Instance, ID: lineage.NewID(seq, r.res.Created, parent, lost > 0), Host: r.o.Host, Agent: r.o.Agent,
		Created: r.res.Created, Finished: r.o.Now().UTC(), Volumes: volumes, Packs: refs,
		Bytes: r.res.Bytes, NewBytes: r.counts.sent.Load(), Seq: seq, Parent: parent,
		Lost: uint64(lost), LostAccepted: uint64(accepted), Losses: named, Fork: forkOf(lineage, parent),
	}
	if r.o.Intent != nil {
		if err := r.o.Intent(m.ID); err != nil {
			return err
		}
	}
	if err := r.session.WriteManifest(ctx, m); err != nil {
		return err
	}
	r.res.Seq, r.res.Parent = seq, parent
	r.tellFork(ctx, m)
	r.res.BackupID, r.res.Object, r.res.ManifestSHA256 = m.ID, m.Object, m.Digest
	for _, name := range r.images {
		r.res.Catalogues[name] = m.ID
	}
	r.res.Packs = len(refs)
	r.res.Verified = r.o.Now().UTC()
	return nil
}

// tidy does the due work on the vault's index, unless another backup is at it.
func (r *run) tidy(ctx context.Context) {
	end, ok := r.o.Pool.sessions.tidying(r.o.Vault)
	if !ok && len(r.lost) == 0 {
		return
	}
	if ok {
		defer end()
	}
	if err := r.w.Tidy(ctx); err != nil { // the next one tries again
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("index of the vault is not tidied: %v", err)})
	}
}

// result sums up the counts.
func (r *run) result() *Result {
	res := &r.res
	res.Warnings, res.WarningCount = r.warnings.Sum()
	res.Losses, res.Lost, res.LostAccepted = r.losses.sum()
	res.Entries, res.Files, res.Dirs = r.recorded.entries.Load(), r.recorded.files.Load(), r.recorded.dirs.Load()
	res.BytesRead, res.BytesNew, res.BytesSent = r.counts.read.Load(), r.counts.fresh.Load(), r.counts.sent.Load()
	res.Unchanged, res.Checked = r.counts.unchanged.Load(), r.counts.checked.Load()
	res.Excluded = r.counts.excluded.Load()
	res.Compressed = r.governor.byLevel()
	_, waited, _ := r.w.Waits()
	res.CompressedWhy = r.governor.why(res.Stages["pipeline"], waited)
	res.Sampled, res.SampledReused = r.job.sampledSoFar()
	res.BytesDeduplicated = res.BytesRead - res.BytesNew
	return res
}

// tellProgress calls Progress until the returned function is called, which makes the last call.
func (r *run) tellProgress() (stop func()) {
	if r.o.Progress == nil {
		return func() {}
	}
	tell := func() {
		r.o.Progress(Progress{
			Entries: r.counts.entries.Load(), Files: r.counts.files.Load(), BytesRead: r.counts.read.Load(),
			Bytes: r.counts.read.Load() + r.counts.known.Load(), BytesNew: r.counts.fresh.Load(), BytesSent: r.counts.sent.Load(), WalkFinished: r.walked.Load(),
		})
	}
	return pulse.Every(progressEvery, tell)
}

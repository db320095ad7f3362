package year_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// Prices of S3 Standard in us-east-1, in dollars.
const (
	priceOfWrite = 5.0 / 1e6 // PUT, POST, LIST
	priceOfRead  = 0.4 / 1e6 // GET, HEAD
	priceOfMonth = 23.0 / 1e12
)

// month is the findings of a month. Its methods may be called from any goroutine.
type month struct {
	name string

	mu            sync.Mutex
	first         []time.Duration // backups of the first day of all
	wall          []time.Duration // other backups
	writes, reads int64           // of these backups
	peak          int64
	prunes        int
	prune, forget cost // all of them together
	backups       int  // in the vault, at the end
	objects       int
	stored        int64
	packs, needed int64 // bytes
	restore       time.Duration
	restorePeak   int64
}

func (m *month) backedUp(n int, c cost) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n == 0 {
		m.first = append(m.first, c.wall)
	} else {
		m.wall = append(m.wall, c.wall)
		m.writes, m.reads = m.writes+c.writes, m.reads+c.reads
	}
	m.peak = max(m.peak, c.peak)
}

func (m *month) forgot(c cost) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget.wall += c.wall
}

func (m *month) pruned(c cost) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prunes++
	m.prune.wall += c.wall
	m.prune.writes += c.writes
	m.prune.reads += c.reads
	m.prune.peak = max(m.prune.peak, c.peak)
}

// restores is how often the newest backup is restored at the end of a month.
const restores = 3

// endOfMonth counts the bytes of the store and the bytes that the backups need, and restores the
// newest backup of the first instance.
func (y *year) endOfMonth(m *month) {
	var all []time.Duration
	first := y.instances[0]
	for range restores {
		to := filepath.Join(y.dir, "restored")
		c, err := y.run(y.hosts[first.host], "restore", "--instance", first.id, to)
		must(y.t, err)
		must(y.t, same(first.dir, to))
		must(y.t, os.RemoveAll(to))
		all = append(all, c.wall)
		m.restorePeak = max(m.restorePeak, c.peak)
	}
	m.restore = median(all)
	if len(y.months) == 1 && m.objects == 0 {
		y.months = append([]*month{{name: "day 1", first: m.first, restore: m.restore, restorePeak: m.restorePeak, peak: m.peak}}, m)
	}
	m.objects, m.stored = y.store.size()
	y.count(m)
}

// count counts the bytes that the backups in the vault need.
func (y *year) count(m *month) {
	ctx := y.t.Context()
	id, err := vault.LoadIdentity(filepath.Join(y.dir, "key"))
	must(y.t, err)
	st, err := obs.Open(ctx, y.janitor.door.url, obs.Options{Getenv: func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "asks"}[name]
	}})
	must(y.t, err)
	v, err := vault.Open(ctx, st, "year", nil, id)
	must(y.t, err)
	defer func() {
		v.Close()
		must(y.t, st.Close())
	}()
	refs, err := v.Backups(ctx, "")
	must(y.t, err)
	m.backups, m.packs, m.needed = len(refs), 0, 0
	packs, chunks := map[vault.PackID]bool{}, map[vault.Loc]bool{}
	for _, ref := range refs {
		b, err := v.Manifest(ctx, ref)
		must(y.t, err)
		for _, p := range b.Packs {
			packs[p.ID] = true
		}
		must(y.t, v.EachChunk(ctx, b, func(_ vault.ChunkKind, l vault.Loc) {
			l.Raw = 0
			if !chunks[l] {
				chunks[l] = true
				m.needed += int64(l.Len)
			}
			if !packs[l.Pack] {
				y.t.Errorf("backup %s of %s needs pack %s, and its manifest does not name it", ref.ID, ref.Instance, l.Pack)
			}
		}))
	}
	for info, err := range st.List(ctx, v.Info().ID+"/packs/") {
		must(y.t, err)
		m.packs += info.Size
	}
	if m.needed == 0 || m.needed > m.packs {
		y.t.Errorf("%s: the backups need %d bytes of %d bytes of packs", m.name, m.needed, m.packs)
	}
}

const mb = 1e6

// report writes the table of the months, and how the year keeps its goals.
func (y *year) report(w io.Writer) {
	fmt.Fprintf(w, "%d days of %d instances on %d hosts; %d instances are dormant at the end\n\n", y.days, len(y.instances), len(y.hosts), y.dormant())
	fmt.Fprintln(w, "| month | backups kept | objects | MB stored | MB of packs | MB needed | packs / needed | writes a backup | reads a backup | dollars a 1000 backups | dollars of storage a month | backup s | peak MiB | restore s | peak MiB | forget s | prune s | writes | reads | peak MiB |")
	fmt.Fprintln(w, "|"+strings.Repeat("---|", 20))
	worst := 0.0
	for _, m := range y.months[1:] {
		n := float64(max(len(m.wall), 1))
		p := float64(max(m.prunes, 1))
		ratio := float64(m.packs) / float64(m.needed)
		worst = max(worst, ratio)
		fmt.Fprintf(w, "| %s | %d | %d | %.1f | %.1f | %.1f | %.2f | %.1f | %.1f | %.3f | %.5f | %.3f | %d | %.3f | %d | %.2f | %.2f | %.0f | %.0f | %d |\n",
			m.name, m.backups, m.objects, float64(m.stored)/mb, float64(m.packs)/mb, float64(m.needed)/mb, ratio,
			float64(m.writes)/n, float64(m.reads)/n, 1000*(float64(m.writes)*priceOfWrite+float64(m.reads)*priceOfRead)/n,
			float64(m.stored)*priceOfMonth, median(m.wall).Seconds(), m.peak>>20, m.restore.Seconds(), m.restorePeak>>20,
			m.forget.wall.Seconds()/p, m.prune.wall.Seconds()/p, float64(m.prune.writes)/p, float64(m.prune.reads)/p, m.prune.peak>>20)
	}
	start, end := y.months[1], y.months[len(y.months)-1]
	early, late := median(start.wall[:min(len(start.wall), 6*len(y.instances))]), median(end.wall[max(0, len(end.wall)-6*len(y.instances)):])
	fmt.Fprintf(w, "\n- packs to needed bytes, the worst month: %.2f (1.15)\n", worst)
	fmt.Fprintf(w, "- seconds of a backup, the last week to the first week after day 1: %.2f (1.20); on day 1 a backup took %.3f s\n",
		late.Seconds()/early.Seconds(), median(y.months[0].first).Seconds())
	fmt.Fprintf(w, "- seconds of the restore of the newest backup, the end to day 1: %.2f (1.20)\n", end.restore.Seconds()/y.months[0].restore.Seconds())
}

func (y *year) dormant() (n int) {
	for _, i := range y.instances {
		if i.dormant {
			n++
		}
	}
	return n
}

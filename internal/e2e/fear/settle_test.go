package fear_test

import (
	"encoding/json"
	"slices"
	"strings"
)

// settle ends all work, restores each backup that has to be there, prunes once, and looks that
// nothing is left that no backup needs.
func (s *stage) settle() {
	s.trail.note("nothing disturbs any more")
	for _, h := range s.hosts {
		s.calm(s.desk, "vault", "sessions", "--forget", h.name)
	}
	for _, b := range s.ledger.everything(grace) {
		s.demand(b, grace)
	}
	res := s.desk.run(s.t.Context(), nil, "prune", "--grace", "0s", "--wait", "1m")
	if missing := s.missing(res); res.code != 0 && !missing {
		s.found("the last prune failed with code %d: %s", res.code, res.errors)
	}
	s.notePrune(res)
	for _, b := range s.ledger.everything(0) {
		s.demand(b, 0)
	}
	s.leftOver()
}

// missing tells whether a prune failed only because backups name packs that are gone. Nobody was
// promised such a backup: its manifest arrived when the process that put it had died. demand looks
// at all others.
func (s *stage) missing(res result) (is bool) {
	lines(res.output, func(kind string, line []byte) {
		var p struct {
			Missing []string `json:"missing_packs"`
		}
		is = is || kind == "prune" && json.Unmarshal(line, &p) == nil && len(p.Missing) > 0
	})
	return is
}

// leftOver compares the objects of the vault with the objects that its manifests need.
func (s *stage) leftOver() {
	ctx := s.t.Context()
	st, v := s.open(ctx)
	defer func() {
		v.Close()
		must(s.t, st.Close())
	}()
	refs, err := v.Backups(ctx, "")
	must(s.t, err)
	needed, names := map[string]bool{}, []string{}
	for _, ref := range refs {
		m, err := v.Manifest(ctx, ref)
		must(s.t, err)
		names = append(names, ref.Instance+"/"+ref.ID)
		for _, p := range m.Packs {
			needed[p.ID.String()] = true
		}
	}
	var packs int
	root := v.Info().ID + "/"
	for info, err := range st.List(ctx, root) {
		must(s.t, err)
		folder, name, _ := strings.Cut(strings.TrimPrefix(info.Key, root), "/")
		switch folder {
		case "packs":
			packs++
			if id := name[strings.LastIndexByte(name, '/')+1:]; !needed[id] {
				s.found("the last prune left garbage: %s", info.Key)
			}
		case "sessions", "going":
			s.found("the last prune left %s", info.Key)
		case "forgotten":
			if backup := name[:strings.LastIndexByte(name, '.')]; !slices.Contains(names, backup) {
				s.found("the last prune left the mark of a backup that is gone: %s", info.Key)
			}
		case "condemned":
			s.trail.count("condemnations left")
		}
	}
	s.trail.set("packs left", packs)
	s.trail.set("backups left", len(refs))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"holdfast/internal/bench/phone"
)

// cell is one kind of run: which data, and which store.
type cell struct {
	mix   phone.Mix
	bytes int64
	seed  int
	store string
}

// The stores.
const (
	near = "near" // a folder in memory
	far  = "far"  // an object store behind a network with latency, see far.go
)

func (c cell) String() string {
	text := fmt.Sprintf("%s, seed %d", c.mix, c.seed)
	if c.store == far {
		text += ", far"
	}
	return text
}

// short names the cell among others by the figures in which they differ.
func (c cell) short(all []measured) string {
	text := string(c.mix)
	for _, m := range all {
		if m.bytes != c.bytes || m.seed != c.seed {
			text = fmt.Sprintf("%s, %d MiB, seed %d", c.mix, c.bytes>>20, c.seed)
		}
	}
	if c.store == far {
		text += ", far"
	}
	return text
}

// cells are all combinations of the lists, the data of one mixture after each other.
func (s *settings) cells() (all []cell) {
	for _, store := range s.stores {
		for _, mix := range s.mixes {
			for _, mib := range s.sizes {
				for _, seed := range s.seeds {
					all = append(all, cell{mix, int64(mib) << 20, seed, store})
				}
			}
		}
	}
	return all
}

// measured are the results of a cell.
type measured struct {
	cell
	files int
	data  int64 // the bytes of one tree
	results
}

// files is how many files the largest of the cells makes, about, in all its trees.
func (s *settings) files() int {
	most := 0
	for _, c := range s.cells() {
		n := int(c.bytes>>20) * 10
		if c.mix == phone.Small {
			n = int(c.bytes>>20) * 512
		}
		most = max(most, n)
	}
	const trees = 3 // two phones, and the restored tree
	return trees * most
}

// lists reads the lists of the environment, and adds their faults to faults.
func (s *settings) lists(getenv func(string) string, faults *[]error) {
	numbers := func(name string, otherwise, least int) (list []int) {
		for _, text := range fieldsOr(getenv(name), strconv.Itoa(otherwise)) {
			n, err := strconv.Atoi(text)
			if err != nil || n < least {
				*faults = append(*faults, fmt.Errorf("%s: must be numbers from %d on, got %q", name, least, text))
			}
			list = append(list, n)
		}
		return list
	}
	s.sizes = numbers("SIZE", 512, 8)
	s.seeds = numbers("SEED", 1, 0)
	names := fieldsOr(getenv("MIX"), string(phone.Phone), string(phone.Databases))
	if len(names) == 1 && names[0] == "all" {
		s.mixes, names = phone.Mixes, nil
	}
	for _, name := range names {
		mix, err := phone.ParseMix(name)
		if err != nil {
			*faults = append(*faults, fmt.Errorf("MIX: %w", err))
		}
		s.mixes = append(s.mixes, mix)
	}
	s.stores = fieldsOr(getenv("STORE"), near)
	for _, name := range s.stores {
		if name != near && name != far {
			*faults = append(*faults, fmt.Errorf("STORE: no store %q; there are %s and %s", name, near, far))
		}
	}
}

func fieldsOr(text string, otherwise ...string) []string {
	if list := strings.Fields(text); len(list) > 0 {
		return list
	}
	return otherwise
}

// cell runs all rounds of a cell.
func (r *runner) cell(ctx context.Context, c cell) (m measured, err error) {
	one := *r
	one.now, one.results = c, results{}
	if c.store == far {
		if one.far, err = r.startFar(ctx); err != nil {
			return measured{}, err
		}
		defer func() { err = errors.Join(err, one.far.stop()) }()
	}
	if err := one.run(ctx); err != nil {
		return measured{}, fmt.Errorf("%s: %w", c, err)
	}
	return measured{cell: c, files: one.files, data: one.data, results: one.results}, nil
}

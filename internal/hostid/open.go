package hostid

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"holdfast/internal/durable"
)

// Standing is the agent's state folder as Open finds it.
type Standing struct {
	Identity
	// Copied says why the folder is not known to be this host's own; nil where it is.
	Copied error
	// Shared says that another state folder of the same origin is on this machine,
	// so that a thing with the host's name may belong to the other folder.
	Shared bool
}

// Journal is the knowledge of the agent's journal about the folder in which it lies.
type Journal struct {
	Owner string // the identity that it was written under; "" where it names none
	Used  bool   // it, or a file beside it, tells of work
}

// Open returns the identity of the agent's state folder, and whether the folder is this host's
// own. It makes an identity only where the folder tells of no work: nobody knows the owner of
// the work in a folder whose identity is missing, damaged or can't be read. Into a folder that
// is not this host's own Open writes nothing. The error beside an identity says that the file
// could not be brought to the present, the error without an identity that the first identity
// could not be written. Adoptions that were cut off have to be finished before.
func Open(dir string, j Journal) (Standing, error) {
	s, err := open(dir, j, look(), placeOf(dir))
	if err != nil {
		return s, fmt.Errorf("identity of this host: %w", err)
	}
	return s, nil
}

func open(dir string, j Journal, now system, place map[string]string) (Standing, error) {
	path := filepath.Join(dir, File)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return Standing{}, err
	}
	if unlock, err := lock(filepath.Join(dir, lockFile)); err == nil {
		defer unlock()
	}
	k, err := read(path)
	known := j.Used || j.Owner != ""
	switch {
	case err == nil && k.Adopting != "":
		return Standing{}, errors.New("an adoption of the state folder was begun meanwhile; start again")
	case err != nil && known:
		s := Standing{Identity: Identity{ID: j.Owner}, Copied: fmt.Errorf("whose work the journal tells of is not known: %w", err)}
		return s, nil
	case err == nil && j.Owner != "" && j.Owner != k.ID:
		return Standing{Identity: k.identity(), Copied: fmt.Errorf("the journal is of another identity (%s) than the folder (%s)", short(j.Owner), short(k.ID))}, nil
	case err == nil:
		if why := k.copied(now, place); why != nil {
			return Standing{Identity: k.identity(), Copied: why}, nil
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
		k = newKept()
	default:
		return Standing{}, err
	}
	if err == nil && k.has(now) && k.lies(place) {
		return k.standing(), nil
	}
	k.live(now.boot)
	k.bind(now)
	k.put(place)
	if werr := k.write(path); werr != nil && err != nil {
		return Standing{}, werr // the first one
	} else if werr != nil {
		return k.standing(), werr
	}
	return k.standing(), nil
}

func (k kept) standing() Standing { return Standing{Identity: k.identity(), Shared: k.Shared} }

// short is the begin of an identity, enough for people to tell it from others.
func short(id string) string { return id[:min(len(id), 8)] }

// copied tells why the folder is a copy of another folder with this file; nil where it is not.
func (k kept) copied(now system, place map[string]string) error {
	differ, agree := k.compare(now)
	if !k.fits(now) {
		why := fmt.Sprintf("the folder was used on another machine: here %s differ", strings.Join(differ, ", "))
		if len(differ) == 1 {
			why = fmt.Sprintf("the folder was used on another machine: here %s differs", differ[0])
		}
		if len(agree) > 0 {
			why += " (the same: " + strings.Join(agree, ", ") + ")"
		}
		return errors.New(why)
	}
	if differ := k.moved(place); len(differ) > 0 {
		return fmt.Errorf("the folder is a copy on the same machine: the %s of the folder differs from the one that it was used with", strings.Join(differ, " and the "))
	}
	return nil
}

// moved lists what of the place differs from the folder that the file was made for.
func (k kept) moved(place map[string]string) (differ []string) {
	for _, name := range []string{"file-system", "handle"} {
		bound, is := k.Place[name], place[name]
		if bound != "" && is != "" && bound != k.digest("place "+name, is) {
			differ = append(differ, strings.ReplaceAll(name, "-", " "))
		}
	}
	return differ
}

// lies tells whether the file has all of the place.
func (k kept) lies(place map[string]string) bool {
	for name, is := range place {
		if k.Place[name] != k.digest("place "+name, is) {
			return false
		}
	}
	return true
}

// put binds the file to a place.
func (k *kept) put(place map[string]string) {
	if k.Place == nil {
		k.Place = map[string]string{}
	}
	for name, is := range place {
		k.Place[name] = k.digest("place "+name, is)
	}
}

// Claim is a person's decision about a state folder.
type Claim struct {
	// New gives the folder another identity. Without it the folder goes on as it was.
	New bool
	// Owner is Journal.Owner: who takes over goes on as the journal's identity.
	Owner string
	// Between sets aside what belongs to the identity before, which it is given. It is
	// called when the new identity is written, also by Settle after a crash, and may
	// find a part done. Only where New is set.
	Between func(before string) error
}

// Adopt binds the folder to this machine and this place, and returns the identity
// before ("" where it is not known) and now. Of the boots it keeps the present one alone:
// processes of earlier boots may be alive on the machine that the folder was on. A crash
// leaves the folder as it was, adopted, or for Settle. It is for a folder that no agent uses.
func Adopt(dir string, c Claim) (before, now string, err error) {
	before, now, err = adopt(dir, c, look(), placeOf(dir))
	if err != nil {
		return before, now, fmt.Errorf("adopt the state folder: %w", err)
	}
	return before, now, nil
}

func adopt(dir string, c Claim, system system, place map[string]string) (before, now string, err error) {
	unlock, err := lock(filepath.Join(dir, lockFile))
	if err != nil {
		return "", "", err
	}
	defer unlock()
	path := filepath.Join(dir, File)
	old, err := read(path)
	known := err == nil
	if known && old.Adopting != "" {
		if err := old.settle(path, c.Between); err != nil {
			return "", "", err
		}
		old.Adopting = ""
	}
	k := newKept()
	switch {
	case known:
		before = old.ID
	case c.Owner != "":
		before = c.Owner
	}
	if !c.New {
		if id := c.Owner; id != "" {
			k.ID = id
		} else if before != "" {
			k.ID = before
		}
		k.Shared = old.Shared
	} else {
		// Nobody knows the history of a folder without a file, so it may be one of two.
		k.Shared = !known || old.Shared || old.fits(system) && len(old.moved(place)) > 0
		if k.Adopting = before; before == "" {
			k.Adopting = "unknown"
		}
	}
	k.live(system.boot)
	k.bind(system)
	k.put(place)
	if err := k.write(path); err != nil {
		return before, "", err
	}
	if k.Adopting != "" {
		if err := k.settle(path, c.Between); err != nil {
			return before, k.ID, err
		}
	}
	return before, k.ID, nil
}

// settle ends an adoption.
func (k kept) settle(path string, between func(before string) error) error {
	if err := between(k.Adopting); err != nil {
		return err
	}
	k.Adopting = ""
	return k.write(path)
}

// Settle ends an adoption that a crash has cut off, before anything
// else is done with the folder. It does nothing where there is none.
func Settle(dir string, between func(before string) error) error {
	path := filepath.Join(dir, File)
	if k, err := read(path); err != nil || k.Adopting == "" {
		return nil // Open tells of a file that can't be read
	}
	unlock, err := lock(filepath.Join(dir, lockFile))
	if err != nil {
		return fmt.Errorf("end the adoption of the state folder: %w", err)
	}
	defer unlock()
	k, err := read(path)
	if err == nil && k.Adopting != "" {
		err = k.settle(path, between)
	}
	if err != nil {
		return fmt.Errorf("end the adoption of the state folder: %w", err)
	}
	return nil
}

package tree

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// The methods in this file handle an entry that can't be read, or that the walk leaves out.

// fault takes the error of an operation on the name at hand: nil is none, an error of
// this process's own is returned, and any other one becomes a part of the loss that
// tellLoss reports. wrong is the fault and so its consequence, for a person.
func (w *walker) fault(op string, err error, wrong, so string) error {
	switch {
	case err == nil:
		return nil
	case w.unseal || Ours(err):
		return pathError(op, w.pathOf(), err)
	}
	w.wrong = append(w.wrong, unread(wrong, err, so))
	return nil
}

// tellLoss reports the parts of the entry at path that could not be read, as one loss.
func (w *walker) tellLoss(path string) {
	if len(w.wrong) == 0 {
		return
	}
	what := w.wrong[0]
	for _, more := range w.wrong[1:] {
		what += "; " + more
	}
	w.wrong = nil
	w.Warn(Warning{Path: path, What: what, Lost: true})
}

// leftOut tells that the entry at hand is not given.
func (w *walker) leftOut(what string) error {
	w.Warn(Warning{Path: w.pathOf(), What: what, Lost: true})
	return nil
}

// number is an inode number on a device in the form for Vanished: 0 in a nested
// subvolume, which counts from the same number as the root.
func (w *walker) number(dev, ino uint64) uint64 {
	if dev != w.root.id.dev {
		return 0
	}
	return ino
}

// gone takes note that the name at hand vanished.
func (w *walker) gone(ino uint64) error {
	w.vanished(w.pathOf(), w.number(w.chain.last().dev, ino))
	return nil
}

func (w *walker) vanished(path string, ino uint64) {
	switch {
	case w.Vanished == nil:
		w.Warn(Warning{Path: path, What: "it vanished while the tree was read", Lost: true})
	case w.links.known(linkID{w.root.id.dev, ino}):
		// A name of a file that has others: the file was given under its first name.
		w.Warn(Warning{Path: path, What: "it vanished while the tree was read; another name of the same file is in the tree"})
	default:
		w.Vanished(path, ino)
	}
}

// unseen takes the error of a stat of the name at hand.
func (w *walker) unseen(err error) error {
	if gone(err) {
		return w.gone(w.ino)
	}
	// The owner of a file system that is mounted here decides the answer of a stat, so
	// the answer is never an error of this process's own.
	mounted := w.foreign()
	if !mounted && (w.unseal || Ours(err)) {
		return pathError("stat", w.pathOf(), err)
	}
	what := "it can't be looked at"
	if mounted {
		what = "another file system is mounted here and can't be looked at"
	}
	return w.leftOut(fmt.Sprintf("%s (%v), it is left out", what, err))
}

// foreign says whether another file system is mounted at the name at hand.
// It does not ask that file system, which may refuse to answer or be dead.
func (w *walker) foreign() bool {
	fd, err := openat2(w.dirfd, w.name.String(), unix.O_PATH|unix.O_NOFOLLOW)
	if err == nil {
		closeFD(fd)
	}
	return err == unix.EXDEV
}

// isFolder says whether the name at hand is a folder, also where a stat of it fails.
func (w *walker) isFolder() bool {
	fd, err := openAt(w.dirfd, w.name.String(), unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	closeFD(fd)
	return true
}

// noLink takes the error of reading the target of the link at hand.
func (w *walker) noLink(err error, ino uint64) error {
	switch {
	case err == unix.EINVAL:
		return errAgain
	case gone(err):
		return w.gone(ino)
	case w.unseal || Ours(err):
		return pathError("read link", w.pathOf(), err)
	}
	return w.leftOut(fmt.Sprintf("where the link leads can't be read (%v), it is left out", err))
}

// lostFolder takes the error of opening the last folder of the chain again, and gives
// up its remaining names, from the name at hand on.
func (w *walker) lostFolder(err error) error {
	path := string(w.chain.path)
	moved := gone(err) || changed(err)
	if !moved && (w.unseal || Ours(err)) {
		return pathError("open", path, err)
	}
	switch {
	case !moved:
		w.Warn(Warning{Path: path, What: fmt.Sprintf("it can't be opened again (%v), the rest of its content is left out", err), Lost: true})
	case w.Vanished == nil:
		w.Warn(Warning{Path: path, What: "it was moved or removed while it was read, the rest of it is left out", Lost: true})
	default:
		// Each may have been moved elsewhere before the folder was removed.
		w.Vanished(path, w.number(w.chain.last().dev, w.chain.last().ino))
		for w.name != nil {
			if w.Exclude == nil || !w.Exclude(w.pathOf(), func() bool { return true }) {
				w.vanished(w.pathOf(), w.number(w.chain.last().dev, w.ino))
			}
			var err error
			if w.name, w.ino, err = w.names.next(); err != nil {
				return pathError("list", path, err)
			}
			w.path = ""
		}
	}
	w.names.drop()
	return nil
}

const (
	// cacheTag is the file that marks a folder as a cache, when it begins with cacheSignature.
	cacheTag       = "CACHEDIR.TAG"
	cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"
)

// isCache says whether the open folder fd is marked as a cache. A
// tag that can't be read marks nothing.
func isCache(fd int) bool {
	at, err := openBeneath(fd, cacheTag, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	defer closeFD(at)
	var st unix.Stat_t
	if unix.Fstat(at, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	// The file is opened by its name again, as /proc may be missing.
	// Without O_NONBLOCK a pipe in its place would wait.
	tag, err := openBeneath(fd, cacheTag, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_NONBLOCK)
	if err != nil {
		return false
	}
	defer closeFD(tag)
	got := make([]byte, len(cacheSignature))
	n, err := unix.Pread(tag, got, 0)
	return err == nil && bytes.Equal(got[:n], []byte(cacheSignature))
}

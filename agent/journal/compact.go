package journal

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// compactAfter is how many closed records a journal may hold.
const compactAfter = 256

// compact writes the journal anew, without what is closed. When that does not
// work the old file stays as it is and goes on to be used.
func (j *Journal) compact() {
	if j.dead < compactAfter || j.poison != nil || len(j.corrupt) > 0 {
		return
	}
	j.dead = 0
	lines, err := j.header.line()
	for _, seq := range slices.Sorted(maps.Keys(j.open)) {
		o := j.open[seq]
		line, encoding := o.line()
		lines, err = append(lines, line...), errors.Join(err, encoding)
		if o.failure != "" {
			line, encoding = record{Type: typeFailed, Seq: seq, Time: o.Time, Error: o.failure}.line()
			lines, err = append(lines, line...), errors.Join(err, encoding)
		}
	}
	if err != nil {
		return
	}
	path := filepath.Join(j.Dir(), journalName)
	tmp, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	if err = writeThrough(tmp, lines); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name())
		return
	}
	_ = j.f.Close()
	j.f = tmp
	// Until the name is on stable storage a power cut brings the old file
	// back, and with it the loss of what is recorded from now on.
	j.poison = syncDir(j.Dir())
}

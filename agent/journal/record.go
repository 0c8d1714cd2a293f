package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"
)

// Record types.
const (
	// typeRun is the first record: what run this is.
	typeRun = "run"
	// typeOpen is an undo, written before the thing is done.
	typeOpen = "open"
	// typeDone closes the undo of its sequence number.
	typeDone = "done"
	// typeFailed says that the undo of its sequence number was tried; it
	// stays open.
	typeFailed = "failed"
)

// record is one line of the journal: eight hexadecimal digits of the CRC-32C
// of the JSON, a space, the JSON, a newline. JSON holds no newline.
type record struct {
	Type string    `json:"type"`
	Seq  uint64    `json:"seq,omitempty"`
	Time time.Time `json:"time"`

	// Of a run.
	RunID string `json:"runId,omitempty"`
	Name  string `json:"name,omitempty"`
	// Boot is the id of the boot (random(4), boot_id), BootTime the time since
	// then (CLOCK_BOOTTIME, ns), which nobody can set.
	Boot     string `json:"boot,omitempty"`
	BootTime uint64 `json:"bootTime,omitempty"`

	// Of an open record.
	Fault    string          `json:"fault,omitempty"`
	Kind     string          `json:"kind,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
	Describe string          `json:"describe,omitempty"`

	// Of a failed one.
	Error string `json:"error,omitempty"`
}

// castagnoli is the polynomial of CRC-32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r record) line() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(b, castagnoli), b), nil
}

// parseLine reads one line without its newline.
func parseLine(line []byte) (record, error) {
	var r record
	sum, body, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(sum) != 8 {
		return r, fmt.Errorf("no checksum")
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil {
		return r, fmt.Errorf("no checksum")
	}
	if got := crc32.Checksum(body, castagnoli); uint64(got) != want {
		return r, fmt.Errorf("checksum is %08x, wanted %08x", got, want)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, err
	}
	return r, nil
}

// contents is what a journal says.
type contents struct {
	run record
	// open records in the order in which they were written.
	open []openRecord
	// last is the highest sequence number.
	last uint64
	// good is the size in bytes without a torn last line.
	good int64
	torn bool
	// corrupt lines before the last: what they recorded is not known.
	corrupt []error
}

type openRecord struct {
	record
	// failure is the error of the last try.
	failure string
}

// read makes sense of a journal. A last line that is incomplete, or of which a
// part never reached the disk and reads as zeros, was being written when the
// writer died: Record had not returned, so nothing was touched, and it does
// not count. Any other bad line is damage, and is reported; the rest is read.
func read(b []byte) contents {
	var c contents
	var open []*openRecord
	bySeq := map[uint64]*openRecord{}
	closed := map[uint64]bool{}
	rest := b
	for n := 1; len(rest) > 0; n++ {
		line, tail, whole := bytes.Cut(rest, []byte("\n"))
		r, err := parseLine(line)
		if err != nil || !whole {
			if len(tail) == 0 && (!whole || bytes.IndexByte(line, 0) >= 0) {
				c.torn = true
				break
			}
			c.corrupt = append(c.corrupt, fmt.Errorf("line %d: %w", n, err))
			rest = tail
			continue
		}
		rest = tail
		c.good = int64(len(b) - len(rest))
		c.last = max(c.last, r.Seq)
		switch r.Type {
		case typeRun:
			c.run = r
		case typeOpen:
			o := &openRecord{record: r}
			bySeq[r.Seq] = o
			open = append(open, o)
		case typeDone:
			closed[r.Seq] = true
		case typeFailed:
			if o := bySeq[r.Seq]; o != nil {
				o.failure = r.Error
			}
		default:
			c.corrupt = append(c.corrupt, fmt.Errorf("line %d: type %q is not known", n, r.Type))
		}
	}
	if c.run.Type == "" && len(c.corrupt) == 0 {
		// It is on the disk before the run has its directory.
		c.corrupt = append(c.corrupt, errors.New("line 1: the record of the run is missing"))
	}
	for _, o := range open {
		if !closed[o.Seq] {
			c.open = append(c.open, *o)
		}
	}
	return c
}

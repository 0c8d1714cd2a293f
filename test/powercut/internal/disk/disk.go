// Package disk is a disk with a volatile write cache, served to a virtual machine,
// whose power can be cut: what was not flushed is lost, all of it or any part of it,
// as on a real disk.
package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
)

// SectorSize is what is written at once or not at all, in bytes.
const SectorSize = 512

// Errors of a disk.
var (
	// ErrCut: the power is gone.
	ErrCut = errors.New("the disk has no power")
	// ErrRange: not whole sectors of the disk.
	ErrRange = errors.New("not whole sectors of the disk")
)

type sector [SectorSize]byte

// Disk is a medium, which is a file, behind a cache in memory. It is safe for
// concurrent use.
type Disk struct {
	mu     sync.Mutex
	medium *os.File
	size   int64
	cache  map[int64]*sector
	random *rand.Rand
	luck   float64
	cut    bool
	stats  Stats
	// left is how many more writes there are before the power goes by itself; 0
	// for no such end.
	left int
	gone chan struct{}
}

// Stats are what a disk has seen.
type Stats struct {
	// Writes and Flushes count requests.
	Writes, Flushes int
	// Lost and Kept are the sectors that were in the cache when the power was
	// cut, and what became of them.
	Lost, Kept int
}

// Open makes a disk of an existing file, whose size is a multiple of [SectorSize].
// luck, from 0 to 1, is the chance of a sector that was written and not flushed to
// reach the medium all the same before the power is cut: a disk may write its cache
// out whenever it likes, and in any order. random draws which ones.
func Open(path string, luck float64, random *rand.Rand) (*Disk, error) {
	medium, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the medium: %w", err)
	}
	st, err := medium.Stat()
	if err == nil && (st.Size() == 0 || st.Size()%SectorSize != 0) {
		err = fmt.Errorf("medium %s has %d bytes: %w", path, st.Size(), ErrRange)
	}
	if err != nil {
		return nil, errors.Join(err, medium.Close())
	}
	return &Disk{medium: medium, size: st.Size(), cache: map[int64]*sector{}, random: random, luck: luck, gone: make(chan struct{})}, nil
}

// Size is in bytes.
func (d *Disk) Size() int64 { return d.size }

// check is for requests; the caller holds the lock.
func (d *Disk) check(offset int64, length int) error {
	if d.cut {
		return ErrCut
	}
	if offset < 0 || offset%SectorSize != 0 || length%SectorSize != 0 || offset > d.size-int64(length) {
		return fmt.Errorf("%d bytes at %d: %w", length, offset, ErrRange)
	}
	return nil
}

// ReadAt reads whole sectors, what was written last.
func (d *Disk) ReadAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(offset, len(p)); err != nil {
		return 0, err
	}
	if n, err := d.medium.ReadAt(p, offset); err != nil {
		return n, err
	}
	for at := 0; at < len(p); at += SectorSize {
		if cached := d.cache[(offset+int64(at))/SectorSize]; cached != nil {
			copy(p[at:], cached[:])
		}
	}
	return len(p), nil
}

// WriteAt writes whole sectors to the cache.
func (d *Disk) WriteAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(offset, len(p)); err != nil {
		return 0, err
	}
	d.stats.Writes++
	for at := 0; at < len(p); at += SectorSize {
		number := (offset + int64(at)) / SectorSize
		// The version before this one may have got to the medium in between.
		if before := d.cache[number]; before != nil && d.random.Float64() < d.luck {
			if err := d.store(number, before); err != nil {
				return at, err
			}
		}
		next := sector(p[at : at+SectorSize])
		d.cache[number] = &next
	}
	if d.left > 0 {
		if d.left--; d.left == 0 {
			return 0, errors.Join(ErrCut, d.powerOff())
		}
	}
	return len(p), nil
}

// CutAtWrite takes the power away in the moment in which the nth write from now on,
// 1 or more, has reached the cache, and is answered no more.
func (d *Disk) CutAtWrite(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

// Gone is closed when the power is.
func (d *Disk) Gone() <-chan struct{} { return d.gone }

// Flush brings everything that was written to the medium.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return ErrCut
	}
	d.stats.Flushes++
	for number, content := range d.cache {
		if err := d.store(number, content); err != nil {
			return err
		}
		delete(d.cache, number)
	}
	return nil
}

func (d *Disk) store(number int64, content *sector) error {
	_, err := d.medium.WriteAt(content[:], number*SectorSize)
	return err
}

// Cut takes the power away, if it is still there: from now on every request ends
// with [ErrCut], and the medium holds what it will hold when the power is back. It
// closes the medium.
func (d *Disk) Cut() (Stats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.powerOff()
	return d.stats, err
}

// powerOff is for a caller that holds the lock.
func (d *Disk) powerOff() error {
	if d.cut {
		return nil
	}
	d.cut = true
	close(d.gone)
	numbers := make([]int64, 0, len(d.cache))
	for number := range d.cache {
		numbers = append(numbers, number)
	}
	// The order of a map is random by itself, and not by the seed.
	slices.Sort(numbers)
	var errs []error
	for _, number := range numbers {
		if d.random.Float64() >= d.luck {
			d.stats.Lost++
			continue
		}
		d.stats.Kept++
		errs = append(errs, d.store(number, d.cache[number]))
	}
	d.cache = nil
	return errors.Join(append(errs, d.medium.Close())...)
}

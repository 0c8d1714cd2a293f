package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"faultline.dev/faultline/test/powercut/internal/event"
)

const (
	// diskBytes is the size of the disk: room for some journals and files.
	diskBytes = 64 << 20
	// revertLongest is about what undoing takes in a guest: a cut in it is at a
	// random time up to this.
	revertLongest = 1500 * time.Millisecond
	// revertWrites is about how many writes that makes.
	revertWrites = 40
	// quietLongest is how long a cut waits for writes.
	quietLongest = 5 * time.Second
)

// campaign is a number of cuts on one disk.
type campaign struct {
	count   int
	seed    uint64
	kernel  string
	longest time.Duration
	dir     string
	out     io.Writer

	// self is this program, where a guest finds it too, and tree the working
	// tree.
	self, tree string
	totals     totals
}

// medium is the file that holds the disk.
func (c *campaign) medium() string { return filepath.Join(c.dir, "disk.img") }

// asCut is the disk as the last cut left it.
func (c *campaign) asCut() string { return filepath.Join(c.dir, "disk-as-cut.img") }

// power says when a cut is to come.
type power struct {
	// inRevert cuts while what the last cut left is undone, else under load.
	inRevert bool
	after    time.Duration
	// writes is at which write after that time it comes; 0 for at that time.
	writes int
	luck   float64
}

// draw makes the choices of one cut. Half of the disks lose everything, the others
// any part of it.
func (c *campaign) draw(number int) (power, *rand.Rand) {
	random := rand.New(rand.NewPCG(c.seed, uint64(number)))
	var p power
	if random.IntN(2) == 0 {
		p.luck = random.Float64()
	}
	// The first cut has nothing before it that could be undone.
	p.inRevert = number > 1 && random.IntN(5) == 0
	// Half of the cuts come when the disk holds something that is not flushed: that
	// is a small part of the time.
	atWrite := random.IntN(2) == 0
	switch {
	case p.inRevert && atWrite:
		// Nobody else writes then.
		p.writes = 1 + random.IntN(revertWrites)
	case p.inRevert:
		p.after = time.Duration(random.Int64N(int64(revertLongest)))
	default:
		p.after = time.Duration(random.Int64N(int64(c.longest)))
		if atWrite {
			p.writes = 1 + random.IntN(8)
		}
	}
	return p, random
}

func (c *campaign) run(ctx context.Context) error {
	var err error
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	if c.tree, err = os.Getwd(); err != nil {
		return err
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "powercut: %d cuts on %s, seed %d\n", c.count, c.kernel, c.seed)
	if err := c.newDisk(); err != nil {
		return err
	}
	if err := c.prove(ctx); err != nil {
		return fmt.Errorf("proving that the disk loses what was not flushed: %w", err)
	}
	if err := c.newDisk("mkfs.ext4", "-q", "-F", c.medium()); err != nil {
		return err
	}
	// Each boot looks at the cut before it; the last one is not cut.
	var last cutLine
	for number := 1; number <= c.count+1; number++ {
		line, err := c.round(ctx, number, &last)
		if err != nil {
			return err
		}
		last = line
	}
	if err := c.checkFileSystem(ctx); err != nil {
		return err
	}
	c.totals.print(c.out)
	return nil
}

// newDisk makes an empty medium and runs a command on it.
func (c *campaign) newDisk(command ...string) error {
	f, err := os.Create(c.medium())
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return err
	}
	if len(command) == 0 {
		return nil
	}
	if said, err := exec.Command(tool(command[0]), command[1:]...).CombinedOutput(); err != nil {
		return benchError{fmt.Errorf("making the file system: %w\n%s", err, said)}
	}
	return nil
}

// prove cuts the power after one block was flushed and another only written, and
// looks which of them is there. The second one had reached the disk's cache, or it
// would prove nothing.
func (c *campaign) prove(ctx context.Context) error {
	b, err := c.start(0, 0, rand.New(rand.NewPCG(c.seed, 0)), "-proof", "write")
	if err != nil {
		return err
	}
	_, err = b.await(ctx, event.Loaded)
	stats, cut := b.cut()
	if err := errors.Join(err, cut); err != nil {
		return err
	}
	if b, err = c.start(0, 0, rand.New(rand.NewPCG(c.seed, 0)), "-proof", "read"); err != nil {
		return err
	}
	e, err := b.await(ctx, event.Proved)
	if err := errors.Join(err, b.stop()); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "the disk: a block that was flushed is %s after a cut, one that was only written is %s (%d sectors were lost)\n",
		there(e.Proof.Flushed), there(e.Proof.Unflushed), stats.Lost)
	if !e.Proof.Flushed || e.Proof.Unflushed || stats.Lost == 0 {
		return benchError{errors.New("the disk is not what the test needs")}
	}
	return nil
}

func there(yes bool) string {
	if yes {
		return "there"
	}
	return "gone"
}

// round boots the machine, lets it check the cut before, and cuts its power, unless
// it is the last boot.
func (c *campaign) round(ctx context.Context, number int, before *cutLine) (line cutLine, err error) {
	end := number > c.count
	p, random := c.draw(number)
	var args []string
	if end {
		args = append(args, "-end")
	}
	if err := copyDisk(c.asCut(), c.medium()); err != nil {
		return line, err
	}
	b, err := c.start(number, p.luck, random, args...)
	if err != nil {
		return line, err
	}
	line = cutLine{number: number, power: p}
	var found *event.Found
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, b.stop())
		var bench benchError
		if ctx.Err() == nil && !errors.As(err, &bench) {
			c.explain(*before, found, b)
		}
	}()
	e, err := b.await(ctx, event.Reverting)
	if err != nil {
		return line, err
	}
	found = e.Found
	before.found = found
	if p.inRevert && !end {
		return line, c.cutAfter(ctx, b, before, &line, event.Clean)
	}
	if e, err = b.await(ctx, event.Clean); err != nil {
		return line, err
	}
	c.done(before, e.Undone)
	if end {
		for range b.events {
			// It has nothing more to say, and unmounts the disk.
		}
		if !b.cmd.ProcessState.Success() {
			return line, benchError{fmt.Errorf("the last guest has not ended well: %v\n%s", b.cmd.ProcessState, b.complaints.Bytes())}
		}
		return line, b.stop()
	}
	if _, err = b.await(ctx, event.Loaded); err != nil {
		return line, err
	}
	return line, c.cutAfter(ctx, b, before, &line, "")
}

// cutAfter waits and cuts. An event that comes meanwhile, but a failure, is passed
// over; one of kind undone tells that the cut before was undone in time.
func (c *campaign) cutAfter(ctx context.Context, b *boot, before, line *cutLine, undone event.Kind) error {
	timer := time.NewTimer(line.power.after)
	defer timer.Stop()
	reverted := undone == ""
	now := make(chan struct{})
	close(now)
	var off <-chan struct{}
	var quiet <-chan time.Time
	for {
		select {
		case <-timer.C:
			if line.power.writes == 0 {
				off, quiet = now, nil
				break
			}
			b.disk.CutAtWrite(line.power.writes)
			off, quiet = b.disk.Gone(), time.After(quietLongest)
		case <-quiet:
			off, quiet = now, nil
		case <-off:
			if !reverted {
				c.interrupted(before)
			}
			var err error
			line.disk, err = b.cut()
			return err
		case e, ok := <-b.events:
			switch {
			case !ok:
				return benchError{fmt.Errorf("the guest has ended (%v):\n%s", b.cmd.ProcessState, b.complaints.Bytes())}
			case e.Kind == event.Failed:
				return errors.New(e.Text)
			case e.Kind == undone:
				reverted = true
				c.done(before, e.Undone)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// checkFileSystem looks at the file system after all the cuts: one that is damaged
// says that the disk broke its promises, and that nothing here proves anything.
func (c *campaign) checkFileSystem(ctx context.Context) error {
	if said, err := exec.CommandContext(ctx, tool("e2fsck"), "-f", "-n", c.medium()).CombinedOutput(); err != nil {
		return benchError{fmt.Errorf("checking the file system: %w\n%s", err, said)}
	}
	return nil
}

// tool finds a program of the administrator, whose folder a user's PATH may lack.
func tool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return filepath.Join("/usr/sbin", name)
}

// copyDisk copies a medium and leaves holes where it is empty.
func copyDisk(to, from string) error {
	if said, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("keeping the disk: %w\n%s", err, bytes.TrimSpace(said))
	}
	return nil
}

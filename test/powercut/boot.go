package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"faultline.dev/faultline/test/powercut/internal/disk"
	"faultline.dev/faultline/test/powercut/internal/event"
)

// bootLimit is more than a boot takes with all that is done in it, on a slow machine.
const bootLimit = 4 * time.Minute

// benchError is a failure of the test bench and not of what is tested.
type benchError struct{ error }

func (b benchError) Unwrap() error { return b.error }

// boot is one life of the virtual machine.
type boot struct {
	disk   *disk.Disk
	server *disk.Server
	socket string
	cmd    *exec.Cmd
	// events ends with the guest.
	events chan event.Event
	// ended is closed when the guest is gone and cmd says how.
	ended      chan struct{}
	complaints bytes.Buffer
	console    string
}

// start boots the machine on the medium. luck is the disk's.
func (c *campaign) start(number int, luck float64, random *rand.Rand, args ...string) (_ *boot, err error) {
	b := &boot{
		events: make(chan event.Event), ended: make(chan struct{}),
		console: filepath.Join(c.dir, "console.txt"),
	}
	if b.disk, err = disk.Open(c.medium(), luck, random); err != nil {
		return nil, err
	}
	// A path of a socket is short: 107 bytes (unix(7)).
	sockets, err := os.MkdirTemp("", "powercut-")
	if err != nil {
		return nil, err
	}
	b.socket = filepath.Join(sockets, "nbd")
	if b.server, err = disk.Serve(b.disk, b.socket); err != nil {
		return nil, errors.Join(err, os.RemoveAll(sockets))
	}
	args = append([]string{
		// With two CPUs software emulation may run an instruction that the kernel has just
		// replaced (jump labels, as cpu.max flips one): measured, an int3 panic.
		"--kernel", c.kernel, "--cpus", "1", "--nbd", b.socket, "--timeout", bootLimit.String(), "--console", b.console, "--",
		// The working tree is slow to read for a guest: programs are started from memory.
		"sh", "-c", `cp "$1/powercut" "$1/faultline" /tmp && shift && exec /tmp/powercut guest "$@"`, "guest", filepath.Dir(c.self),
		"-faultline", "/tmp/faultline", "-seed", strconv.FormatUint(c.seed, 10), "-boot", strconv.Itoa(number),
	}, args...)
	b.cmd = exec.Command(filepath.Join(c.tree, "test", "vm", "run"), args...)
	b.cmd.Stderr = &b.complaints
	// Not the terminal's Ctrl-C, which would come before the disk is cut; and never
	// longer than this process.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := b.cmd.StdoutPipe()
	if err == nil {
		err = b.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, b.server.Close(), os.RemoveAll(sockets))
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			var e event.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e = event.Event{Kind: event.Failed, Text: fmt.Sprintf("the guest says %.200q: %v", lines.Bytes(), err)}
			}
			b.events <- e
		}
		// How it ended, finish asks.
		_ = b.cmd.Wait()
		close(b.ended)
		close(b.events)
	}()
	return b, nil
}

// next is the next event of the guest.
func (b *boot) next(ctx context.Context) (event.Event, error) {
	select {
	case e, ok := <-b.events:
		if !ok {
			return e, benchError{fmt.Errorf("the guest has ended (%v):\n%s", b.cmd.ProcessState, b.complaints.Bytes())}
		}
		if e.Kind == event.Failed {
			return e, errors.New(e.Text)
		}
		return e, nil
	case <-ctx.Done():
		return event.Event{}, context.Cause(ctx)
	}
}

// await returns the next event, which must be of that kind.
func (b *boot) await(ctx context.Context, kind event.Kind) (event.Event, error) {
	e, err := b.next(ctx)
	if err == nil && e.Kind != kind {
		err = benchError{fmt.Errorf("the guest says %q, wanted %q", e.Kind, kind)}
	}
	return e, err
}

// cut takes the power away, first from the disk, so that nothing that the end of
// the virtual machine does can reach it, and then from the machine.
func (b *boot) cut() (disk.Stats, error) {
	stats, err := b.disk.Cut()
	return stats, errors.Join(err, b.kill())
}

// stop ends the machine and keeps what it has written, for those who look for the
// cause of a failure.
func (b *boot) stop() error {
	err := b.disk.Flush()
	if errors.Is(err, disk.ErrCut) {
		err = nil
	}
	_, cut := b.cut()
	return errors.Join(err, cut)
}

// kill ends the virtual machine at once. test/vm/run replaces itself by the bench,
// and the kernel ends QEMU with that.
func (b *boot) kill() error {
	err := b.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	for range b.events {
		// Nobody wants to know any more.
	}
	<-b.ended
	return errors.Join(err, b.server.Close(), os.RemoveAll(filepath.Dir(b.socket)))
}

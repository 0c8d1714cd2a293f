// Package sleeper lets programs in the kernel wait (bpf/include/sleep.h). They read what is
// mapped from a file whose pages are never there: a daemon of ours serves it by FUSE, and
// answers when the sleeper is to wake; a holder maps it. Both are processes of their own.
//
// The file system is mounted nowhere, and all of it ends by itself: the daemon and the
// holder with the process that has started them, the sleeps with the daemon, or with the lease
// that nobody renews.
package sleeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/exec"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// slots is SLEEPS_MAX of bpf/include/sleep.h.
const slots = 1024

// ErrGone means that nobody can sleep any more: one of the processes has ended.
var ErrGone = errors.New("the process that sleepers wait for is gone")

// Config is struct fl_sleeper: what programs are told before they are loaded.
type Config struct {
	Base      uint64
	Holder    uint32
	PageShift uint32
}

// Sleeper is what programs sleep by. It is safe for concurrent use.
type Sleeper struct {
	daemon, holder *process
	config         Config
	gone           chan struct{}
}

// Start makes one for programs whose map fl_sleeps is given. The errors are those of the
// system: no /dev/fuse, no more processes.
func Start(ctx context.Context, sleeps *ebpf.Map) (*Sleeper, error) {
	s := &Sleeper{gone: make(chan struct{})}
	if err := s.start(ctx, sleeps); err != nil {
		s.Close()
		return nil, fmt.Errorf("preparing to sleep: %w", err)
	}
	go s.watch()
	return s, nil
}

func (s *Sleeper) start(ctx context.Context, sleeps *ebpf.Map) error {
	device, root, err := mount()
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	err = s.startDaemon(device, sleeps)
	// It is the daemon's alone, so that the connection ends with it.
	if err := errors.Join(err, device.Close()); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := openFile(root)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	page := os.Getpagesize()
	s.config.PageShift = uint32(bits.TrailingZeros(uint(page)))
	if s.holder, s.config.Base, err = startHolder(file, uint64(slots*page)); err != nil {
		return err
	}
	s.config.Holder = uint32(s.holder.cmd.Process.Pid)
	return nil
}

func (s *Sleeper) startDaemon(device *os.File, sleeps *ebpf.Map) error {
	fd, err := unix.FcntlInt(uintptr(sleeps.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("copying the descriptor of a map: %w", err)
	}
	times := os.NewFile(uintptr(fd), "fl_sleeps")
	defer func() { _ = times.Close() }()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{daemonName}
	cmd.Env = []string{daemonVariable + "=1"}
	cmd.ExtraFiles = []*os.File{device, times}
	cmd.Stderr = os.Stderr
	s.daemon, err = start(cmd, func(_ io.Writer, out io.Reader) error {
		line, err := bufio.NewReader(out).ReadString('\n')
		if err == nil && strings.TrimSpace(line) != readyWord {
			err = fmt.Errorf("it said %q", line)
		}
		return err
	})
	return err
}

// Config is what the programs are to be told.
func (s *Sleeper) Config() Config { return s.config }

// Lease says until when (CLOCK_BOOTTIME, ns) somebody may sleep without another word: then
// all wake. An error matches ErrGone.
func (s *Sleeper) Lease(deadline uint64) error {
	select {
	case <-s.gone:
		return ErrGone
	default:
	}
	if _, err := fmt.Fprintln(s.daemon.in, leaseWord, deadline); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// Wake wakes all at once, and nobody sleeps until there is another lease.
func (s *Sleeper) Wake() {
	_, _ = fmt.Fprintln(s.daemon.in, wakeWord) // a daemon that is gone has woken them
}

// Gone is closed when nobody can sleep any more.
func (s *Sleeper) Gone() <-chan struct{} { return s.gone }

// watch waits for the end of one of the processes.
func (s *Sleeper) watch() {
	select {
	case <-s.daemon.ended:
	case <-s.holder.ended:
		// Who sleeps uses its memory, which lives as long as that.
		s.daemon.kill()
	}
	close(s.gone)
}

// Close wakes all and ends the processes.
func (s *Sleeper) Close() {
	for _, p := range []*process{s.daemon, s.holder} {
		if p != nil {
			p.kill()
		}
	}
}

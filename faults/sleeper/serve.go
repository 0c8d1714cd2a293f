package sleeper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

const (
	// daemonName is what the kernel shows of the daemon.
	daemonName = "faultline-sleeper"
	// daemonVariable tells a process that it is one.
	daemonVariable = "FAULTLINE_SLEEPER"

	// readyWord is what a daemon says when it answers.
	readyWord = "ready"
	// leaseWord comes before a deadline of CLOCK_BOOTTIME (ns): then all wake, unless
	// another one has come.
	leaseWord = "lease"
	// wakeWord wakes all, and nobody sleeps any more.
	wakeWord = "wake"
)

// The descriptors of a daemon.
const (
	deviceDescriptor = 3
	sleepsDescriptor = 4
)

// sleep is struct fl_sleep.
type sleep struct {
	Until uint64
	Taken uint32
	Cut   uint32
}

// A process that was started for it answers sleepers and does nothing else, whatever program
// it is: one that forgot to ask first would begin its own work all over again.
func init() {
	if os.Getenv(daemonVariable) == "" {
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, daemonName+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(in io.Reader, out io.Writer) error {
	memory, err := unix.Mmap(sleepsDescriptor, 0, int(unsafe.Sizeof(sleep{}))*slots, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the sleepers' times: %w", err)
	}
	d := &daemon{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		sleeps:        unsafe.Slice((*sleep)(unsafe.Pointer(&memory[0])), slots),
		page:          uint64(os.Getpagesize()),
		woken:         make(chan struct{}),
	}
	server, err := fuse.NewServer(d, fmt.Sprint("/dev/fd/", deviceDescriptor), &fuse.MountOptions{
		// Each sleeper is a request that waits.
		MaxWrite: os.Getpagesize(), MaxInflightRequestBytes: slots * 64 * os.Getpagesize(), MaxBackground: slots,
	})
	if err != nil {
		return fmt.Errorf("serving the file system: %w", err)
	}
	go server.Serve()
	if _, err := fmt.Fprintln(out, readyWord); err != nil {
		return err
	}
	// When the process that has started this one is gone the file system goes too, and
	// the kernel wakes whoever waits for it.
	return d.obey(in)
}

// daemon is the file system: a directory with one file, the pages of which are never there.
type daemon struct {
	fuse.RawFileSystem
	sleeps []sleep
	page   uint64

	mu    sync.Mutex
	lease *time.Timer
	// woken is closed when all are to wake.
	woken chan struct{}
}

// obey does what it is told, until nobody is there to tell.
func (d *daemon) obey(in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var word string
		var deadline uint64
		if n, _ := fmt.Sscan(lines.Text(), &word, &deadline); n == 0 {
			continue
		}
		switch word {
		case leaseWord:
			d.renew(deadline)
		case wakeWord:
			d.wake()
		default:
			return fmt.Errorf("unknown order %q", word)
		}
	}
	return lines.Err()
}

// renew has all wake at a deadline.
func (d *daemon) renew(deadline uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease != nil {
		d.lease.Stop()
	}
	select {
	case <-d.woken:
		d.woken = make(chan struct{})
	default:
	}
	d.lease = time.AfterFunc(untilBoot(deadline), d.wake)
}

func (d *daemon) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.woken:
	default:
		close(d.woken)
	}
}

func (d *daemon) wakes() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.woken
}

// untilBoot is how long it is until a time of CLOCK_BOOTTIME (ns), at most some years.
func untilBoot(deadline uint64) time.Duration {
	const longest = 1 << 60
	now := fault.BootTime()
	if deadline <= now {
		return 0
	}
	return time.Duration(min(deadline-now, longest))
}

const (
	fileNode  = 2
	directory = unix.S_IFDIR | 0o500
	regular   = unix.S_IFREG | 0o400
	// forever is how long the kernel may remember what it was told (s).
	forever = 1 << 31
)

func (d *daemon) attributes(node uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: node, Mode: directory, Nlink: 1}
	if node == fileNode {
		out.Mode, out.Size = regular, slots*d.page
	}
}

// Lookup implements fuse.RawFileSystem.
func (d *daemon) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if header.NodeId != fuse.FUSE_ROOT_ID || name != fileName {
		return fuse.ENOENT
	}
	out.NodeId, out.EntryValid, out.AttrValid = fileNode, forever, forever
	d.attributes(fileNode, &out.Attr)
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem.
func (d *daemon) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.AttrValid = forever
	d.attributes(in.NodeId, &out.Attr)
	return fuse.OK
}

// Open implements fuse.RawFileSystem.
func (d *daemon) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.NodeId != fileNode {
		return fuse.ENOENT
	}
	return fuse.OK
}

// Read implements fuse.RawFileSystem: it answers when the sleeper is to wake, with an error,
// so that the kernel keeps nothing and asks again the next time.
func (d *daemon) Read(interrupted <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	if page := in.Offset / d.page; page < slots {
		d.wait(&d.sleeps[page], interrupted, in.Pid)
	}
	return nil, fuse.EIO
}

// killedInterval is how often a sleeper is looked at that got a signal: the kernel says
// so once, and not again when it is killed.
const killedInterval = 20 * time.Millisecond

func (d *daemon) wait(s *sleep, interrupted <-chan struct{}, task uint32) {
	timer := time.NewTimer(untilBoot(atomic.LoadUint64(&s.Until)))
	defer timer.Stop()
	woken := d.wakes()
	var look <-chan time.Time
	for {
		select {
		case <-timer.C:
			return
		case <-woken:
			atomic.StoreUint32(&s.Cut, 1)
			return
		case <-interrupted:
			interrupted = nil
			ticker := time.NewTicker(killedInterval)
			defer ticker.Stop()
			look = ticker.C
		case <-look:
		}
		// A signal that does not kill is none of ours: it waits like any that comes
		// during a disk's work.
		if look != nil && isKilled(task) {
			atomic.StoreUint32(&s.Cut, 1)
			return
		}
	}
}

// isKilled tells whether a task is about to end by SIGKILL, which the kernel also sends to
// the other threads of one that exits.
func isKilled(task uint32) bool {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", task))
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var key string
		var pending uint64
		if n, _ := fmt.Sscanf(lines.Text(), "%s %x", &key, &pending); n == 2 && (key == "SigPnd:" || key == "ShdPnd:") &&
			pending>>(unix.SIGKILL-1)&1 == 1 {
			return true
		}
	}
	return false
}

// Package machine runs one QEMU guest of the test bench and relays what its
// command says.
package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/wire"
)

// Why a guest gave no exit status.
var (
	ErrHang  = errors.New("the guest hangs")
	ErrBoot  = errors.New("the guest does not boot")
	ErrPanic = errors.New("the guest's kernel panicked")
	ErrEnd   = errors.New("the guest ended without an exit status")
	ErrGuest = errors.New("the guest can't run the command")
)

// Spec is a guest to run.
type Spec struct {
	QEMU      string        // the program
	Accel     string        // QEMU's -accel, such as tcg,thread=multi
	Image     string        // the bzImage
	Initramfs []byte        // with the guest's first process
	Append    string        // more for the kernel's command line
	CPUs      int           // virtual CPUs
	Memory    string        // QEMU's -m, such as 2G
	DiskBytes int64         // size of /dev/vdb; it takes no space until it is written
	NBD       string        // socket of the NBD server whose disk is /dev/vdb; empty for an empty disk
	Tree      string        // the working tree, exported for writing
	KernelDir string        // the unpacked kernel package; empty for none
	Timeout   time.Duration // for all of it, the boot included
	Boot      time.Duration // until the command starts; 0 for Timeout

	Stdout, Stderr io.Writer            // of the command
	Console        io.Writer            // where the console goes, beside Tail
	Tail           *Tail                // keeps the end of the console
	Started        func(release string) // called when the command starts
}

// Run boots the guest and waits for its command. It returns the command's exit
// status; an error means that there is none, and is ErrHang, ErrBoot, ErrPanic, ErrEnd
// or ErrGuest if the guest is to blame. When the context ends, so does the guest, and
// the error is the context's cause. Nothing is left behind, even if this process is
// killed: the guest's files have no names, and the kernel ends QEMU.
func Run(ctx context.Context, s Spec) (int, error) {
	// QEMU is to die with this process. The kernel means the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	files := &descriptors{}
	defer files.close()
	port, err := files.socket()
	if err != nil {
		return 0, err
	}
	defer port.Close()
	console, err := files.socket()
	if err != nil {
		return 0, err
	}
	defer console.Close()
	if err := files.initramfs(s.Initramfs); err != nil {
		return 0, err
	}
	if s.NBD == "" {
		if err := files.disk(s.DiskBytes); err != nil {
			return 0, err
		}
	}

	complaints := NewTail(8 << 10)
	cmd := exec.Command(s.QEMU, s.arguments()...)
	cmd.ExtraFiles = files.list
	cmd.Stdout, cmd.Stderr = complaints, complaints
	// A process group of its own keeps the terminal's Ctrl-C from QEMU: this
	// process ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting QEMU: %w", err)
	}
	// With the other ends closed here, QEMU's end is the end of both streams.
	files.close()

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// It is killed, so how it ended says nothing.
		_ = cmd.Wait()
	}()
	consoleDone := make(chan struct{})
	go func() {
		defer close(consoleDone)
		_, _ = io.Copy(io.MultiWriter(s.Tail, s.Console), console)
	}()
	result, booted := make(chan outcome, 1), make(chan struct{})
	go func() { result <- s.relay(port, booted) }()

	status, err := s.await(ctx, port, result, booted)
	_ = cmd.Process.Kill()
	<-ended
	<-consoleDone
	if errors.Is(err, ErrEnd) {
		err = s.blame(err, complaints)
	}
	return status, err
}

type outcome struct {
	status int
	err    error
	dump   string // what the processes do; then there is no status
}

// dumpTime is how long a guest whose time is over may take to say what its
// processes do.
const dumpTime = 5 * time.Second

// await waits for the guest, the time limits or the context.
func (s Spec) await(ctx context.Context, port io.Writer, result <-chan outcome, booted <-chan struct{}) (int, error) {
	limit := time.NewTimer(s.Timeout)
	defer limit.Stop()
	boot := time.NewTimer(cmp.Or(s.Boot, s.Timeout))
	defer boot.Stop()
	for waiting := true; waiting; {
		select {
		case o := <-result:
			return o.status, o.err
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-booted:
			boot.Stop()
			booted = nil
		case <-boot.C:
			if booted != nil && s.Boot > 0 {
				return 0, fmt.Errorf("%w: the command has not started after %v", ErrBoot, s.Boot)
			}
		case <-limit.C:
			waiting = false
		}
	}
	err := fmt.Errorf("%w: no exit status after %v", ErrHang, s.Timeout)
	if _, failed := port.Write([]byte{wire.AskDump}); failed != nil {
		return 0, err
	}
	patience := time.NewTimer(dumpTime)
	defer patience.Stop()
	select {
	case o := <-result:
		if o.dump != "" {
			err = fmt.Errorf("%w; its processes:\n%s", err, o.dump)
		}
	case <-patience.C:
	case <-ctx.Done():
	}
	return 0, err
}

// relay passes the command's output on until its status arrives; booted is
// closed when the command starts.
func (s Spec) relay(port io.Reader, booted chan<- struct{}) outcome {
	for {
		kind, payload, err := wire.Receive(port)
		if err != nil {
			if errors.Is(err, wire.ErrFrame) {
				return outcome{err: err}
			}
			return outcome{err: ErrEnd}
		}
		switch kind {
		case wire.Started:
			if booted != nil {
				close(booted)
				booted = nil
			}
			s.Started(string(payload))
		case wire.Stdout:
			_, err = s.Stdout.Write(payload)
		case wire.Stderr:
			_, err = s.Stderr.Write(payload)
		case wire.Dump:
			return outcome{dump: string(payload)}
		case wire.Fatal:
			return outcome{err: fmt.Errorf("%w: %s", ErrGuest, payload)}
		case wire.Exit:
			if len(payload) != 1 {
				return outcome{err: fmt.Errorf("reading the exit status: %w", wire.ErrFrame)}
			}
			return outcome{status: int(payload[0])}
		}
		if err != nil {
			return outcome{err: fmt.Errorf("passing on the output: %w", err)}
		}
	}
}

// blame says why QEMU ended by itself.
func (s Spec) blame(err error, complaints *Tail) error {
	for _, line := range s.Tail.Lines(1000) {
		if strings.Contains(line, "Kernel panic - not syncing") {
			return ErrPanic
		}
	}
	if lines := complaints.Lines(20); len(lines) > 0 {
		return fmt.Errorf("%w: QEMU says: %s", err, strings.Join(lines, "\n"))
	}
	return err
}

// Numbers of the descriptors in QEMU: exec.Cmd's ExtraFiles start at 3.
const (
	fdPort = iota + 3
	fdConsole
	fdInitramfs
	fdDisk
)

// emulatedCPU is all that QEMU emulates, but for what makes it slower by a fifth:
// page tables of five levels, SMAP, which ends a translated block at each access
// to user memory, and string instructions that the kernel and Go would use byte
// by byte.
const emulatedCPU = "max,-la57,-smap,-erms,-fsrm"

// arguments are QEMU's. The root is exported read-only; nothing else of the
// machine can be reached, there is no network.
func (s Spec) arguments() []string {
	cpu := emulatedCPU
	if strings.HasPrefix(s.Accel, "kvm") {
		cpu = "host"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", s.Accel, "-cpu", cpu,
		"-smp", strconv.Itoa(s.CPUs), "-m", s.Memory,
		"-kernel", s.Image,
		"-initrd", path(fdInitramfs),
		"-append", s.commandLine(),
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole),
		"-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=port,fd=%d", fdPort),
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=port,name=" + wire.PortName,
		// An empty /dev/vda, so that the scratch disk is /dev/vdb as the second
		// disk is on most machines.
		"-blockdev", "driver=null-co,node-name=vda,size=1048576,read-zeroes=on",
		"-device", "virtio-blk-pci,drive=vda",
		"-blockdev", s.disk(),
		"-device", "virtio-blk-pci,drive=vdb",
	}
	args = append(args, export(wire.TagRoot, "/", true)...)
	args = append(args, export(wire.TagTree, s.Tree, false)...)
	if s.KernelDir != "" {
		args = append(args, export(wire.TagKernel, s.KernelDir, true)...)
	}
	return args
}

// disk is the -blockdev of /dev/vdb. Nobody looks at a scratch disk after the guest
// is gone, so its flushes end here; those for an NBD server go there.
func (s Spec) disk() string {
	if s.NBD != "" {
		return "driver=nbd,node-name=vdb,server.type=unix,server.path=" + escape(s.NBD)
	}
	return "driver=raw,node-name=vdb,discard=unmap,file.driver=file,file.discard=unmap,file.cache.no-flush=on,file.filename=" + path(fdDisk)
}

// commandLine is the kernel's. An oops ends the guest: a test that goes on after
// one proves nothing. The check of the timer panics on a busy host, where an
// emulated tick can be late; with no_timer_check it is believed to work.
func (s Spec) commandLine() string {
	return strings.TrimSpace("console=ttyS0 quiet panic=-1 oops=panic random.trust_cpu=on mitigations=off no_timer_check " + s.Append)
}

// export are QEMU's arguments for a 9p export. With security model "none" files
// that the guest's root makes belong to whoever runs QEMU.
func export(tag, dir string, readOnly bool) []string {
	fsdev := fmt.Sprintf("local,id=%s,path=%s,security_model=none,multidevs=remap", tag, escape(dir))
	if readOnly {
		fsdev += ",readonly=on"
	}
	return []string{"-fsdev", fsdev, "-device", fmt.Sprintf("virtio-9p-pci,fsdev=%s,mount_tag=%s", tag, tag)}
}

// escape doubles commas, as QEMU's option syntax wants it.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func path(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// descriptors are the open files that QEMU gets, in the order of the numbers.
type descriptors struct{ list []*os.File }

func (d *descriptors) close() {
	for _, f := range d.list {
		f.Close()
	}
	d.list = nil
}

// socket adds one end of a socket pair and returns the other.
func (d *descriptors) socket() (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	d.list = append(d.list, os.NewFile(uintptr(pair[0]), "socket"))
	mine := os.NewFile(uintptr(pair[1]), "socket")
	defer mine.Close()
	return net.FileConn(mine)
}

// initramfs adds a file in memory.
func (d *descriptors) initramfs(content []byte) error {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making the initramfs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	d.list = append(d.list, f)
	if _, err = f.Write(content); err != nil {
		return fmt.Errorf("making the initramfs: %w", err)
	}
	return nil
}

// disk adds a sparse file that has no name any more.
func (d *descriptors) disk(size int64) error {
	f, err := os.CreateTemp("", "faultline-vm-disk-")
	if err != nil {
		return fmt.Errorf("making the scratch disk: %w", err)
	}
	d.list = append(d.list, f)
	if err := errors.Join(os.Remove(f.Name()), f.Truncate(size)); err != nil {
		return fmt.Errorf("making the scratch disk: %w", err)
	}
	return nil
}

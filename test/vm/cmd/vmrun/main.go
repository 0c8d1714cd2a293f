// Command vmrun is test/vm/run: it boots a kernel of kernels.yaml under QEMU and
// runs a command in it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/machine"
	"faultline.dev/faultline/test/vm/internal/store"
	"faultline.dev/faultline/test/vm/internal/wire"
	"faultline.dev/faultline/test/vm/kernels"
)

const (
	exitUsage = 2
	exitBench = 125
)

// In software emulation on a busy machine one boot of some hundred stands still:
// a virtual CPU gets no timer interrupt any more ("Possible timer handling
// issue").
const (
	bootTimeout = 3 * time.Minute
	bootTries   = 3
)

// stateDir is where faultline keeps its journal in a guest.
const stateDir = "/run/faultline-state"

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/vm/run:", err)
	}
	os.Exit(status)
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return "ended by " + i.signal.String() }

func run(args []string) (int, error) {
	o, err := parse(args, os.LookupEnv)
	if err != nil {
		return exitUsage, fmt.Errorf("%w (--help says more)", err)
	}
	if o.help {
		fmt.Print(usage)
		return 0, nil
	}
	if o.list {
		for _, k := range kernels.All() {
			fmt.Printf("%-12s %s\n", k.ID, origin(k))
		}
		return 0, nil
	}
	selected := kernels.All()
	if o.kernel != "" {
		k, err := kernels.Find(o.kernel)
		if err != nil {
			return exitUsage, err
		}
		selected = []kernels.Kernel{k}
	}

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { cancel(interrupted{(<-signals).(syscall.Signal)}) }()

	status, err := fetchAndRun(ctx, o, selected)
	var sig interrupted
	if errors.As(context.Cause(ctx), &sig) {
		return 128 + int(sig.signal), sig
	}
	if err != nil {
		return exitBench, err
	}
	return status, nil
}

func origin(k kernels.Kernel) string {
	if k.EI != nil {
		return "function error injection, from " + k.EI.Package
	}
	return "stock, " + k.Debian.Package + " of " + k.Debian.Suite
}

// fetchAndRun gets the kernels and, unless that is all that is wanted, runs the
// command in the only one.
func fetchAndRun(ctx context.Context, o options, selected []kernels.Kernel) (int, error) {
	tree, err := filepath.EvalSymlinks(os.Getenv("FAULTLINE_VM_TREE"))
	if err != nil {
		return 0, fmt.Errorf("finding the working tree: %w; start this as test/vm/run", err)
	}
	cache, err := store.CacheDir(os.Getenv)
	if err != nil {
		return 0, err
	}
	st := &store.Store{
		Dir:   cache,
		Tree:  tree,
		Ready: filepath.Join(tree, "..", "shared", "kernels"),
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Talk:  os.Stderr,
	}
	var image store.Image
	for _, k := range selected {
		if image, err = st.Get(ctx, k); err != nil {
			return 0, err
		}
		if o.fetch {
			fmt.Printf("%-12s %s\n", k.ID, image.Path)
		}
	}
	if o.fetch {
		return 0, nil
	}
	return boot(ctx, o, selected[0], image, tree)
}

// boot runs the command in a guest and explains on standard error why there is
// no exit status.
func boot(ctx context.Context, o options, k kernels.Kernel, image store.Image, tree string) (int, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return 0, errors.New("qemu-system-x86_64 is not there: run test/vm/install")
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	config := wire.Config{
		Kernel:    k.ID,
		Command:   o.command,
		Env:       environment(k.ID, o.env, os.Environ()),
		Dir:       workingDir(tree),
		Tree:      tree,
		KernelDir: image.Dir != "",
		Systemd:   o.systemd,
	}
	archive, err := initramfs(filepath.Join(filepath.Dir(self), "vminit"), config, image)
	if err != nil {
		return 0, fmt.Errorf("making the initramfs: %w", err)
	}
	console, closeConsole, err := consoleWriter(o)
	if err != nil {
		return 0, err
	}
	defer closeConsole()

	begin := time.Now()
	elapsed := func() time.Duration { return time.Since(begin).Round(10 * time.Millisecond) }
	booted := false
	tail := machine.NewTail(64 << 10)
	spec := machine.Spec{
		QEMU:      qemu,
		Accel:     accelerator(os.Getenv("FAULTLINE_VM_ACCEL")),
		Image:     image.Path,
		Initramfs: archive,
		Append:    o.append,
		CPUs:      o.cpus,
		Memory:    o.memory,
		DiskBytes: o.disk,
		NBD:       o.nbd,
		Tree:      tree,
		KernelDir: image.Dir,
		Timeout:   o.timeout,
		Boot:      bootTimeout,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		Console:   console,
		Tail:      tail,
		Started: func(release string) {
			booted = true
			if o.verbose {
				fmt.Fprintf(os.Stderr, "test/vm/run: %s: Linux %s, command started after %v\n", k.ID, release, elapsed())
			}
		},
	}
	status, err := machine.Run(ctx, spec)
	for try := 1; errors.Is(err, machine.ErrBoot) && try < bootTries; try++ {
		// Nothing has run yet that could notice.
		fmt.Fprintf(os.Stderr, "test/vm/run: %s: %v; trying again\n", k.ID, err)
		status, err = machine.Run(ctx, spec)
	}
	if o.verbose {
		fmt.Fprintf(os.Stderr, "test/vm/run: %s: ended after %v\n", k.ID, elapsed())
	}
	if err == nil || context.Cause(ctx) != nil {
		return status, err
	}
	if lines := tail.Lines(60); len(lines) > 0 {
		fmt.Fprintf(os.Stderr, "--- end of the console of %s ---\n%s\n---\n", k.ID, strings.Join(lines, "\n"))
	}
	where := "before the command started"
	if booted {
		where = "while the command ran"
	}
	return 0, fmt.Errorf("%s, %s, after %v: %w", k.ID, where, elapsed(), err)
}

// workingDir returns the caller's folder if it is in the tree, else the tree.
func workingDir(tree string) string {
	dir, err := unix.Getwd()
	if err != nil || (dir != tree && !strings.HasPrefix(dir, tree+"/")) {
		return tree
	}
	return dir
}

// environment returns the command's environment: little, so that a test does not
// depend on the caller's, but what is Faultline's own and what was asked for.
func environment(id string, extra, caller []string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8", "TMPDIR=/tmp",
	}
	for _, entry := range caller {
		if strings.HasPrefix(entry, "FAULTLINE_") && !strings.HasPrefix(entry, "FAULTLINE_VM_") && !strings.HasPrefix(entry, "FAULTLINE_CACHE=") {
			env = append(env, entry)
		}
	}
	env = append(env, "FAULTLINE_STATE_DIR="+stateDir, kernels.Variable+"="+id)
	return append(env, extra...)
}

// accelerator returns QEMU's -accel. Software emulation is the same everywhere;
// KVM is only used where it is asked for.
func accelerator(wanted string) string {
	if wanted == "" {
		return "tcg,thread=multi"
	}
	return wanted
}

// consoleWriter returns where the console goes beside the tail that is kept.
func consoleWriter(o options) (io.Writer, func(), error) {
	var writers []io.Writer
	closeFile := func() {}
	if o.verbose {
		writers = append(writers, os.Stderr)
	}
	if o.console != "" {
		f, err := os.Create(o.console)
		if err != nil {
			return nil, nil, fmt.Errorf("writing the console: %w", err)
		}
		writers = append(writers, f)
		closeFile = func() { f.Close() }
	}
	return io.MultiWriter(writers...), closeFile, nil
}

// Command powercut cuts the power of a virtual machine in the middle of faults, at
// random times and on a disk that loses what was not flushed, boots it again, and
// looks that everything can be undone. "make test-powercut" builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"faultline.dev/faultline/test/powercut/internal/guest"
)

const usage = `usage: powercut [options]

Boots a kernel of test/vm/kernels.yaml, lets faults run and files change behind
journal records on a disk that keeps only what was flushed, and cuts the power at a
random time, over and over. After each cut it looks that "faultline revert --all"
undoes everything, and goes on with the same disk.

Options:
  -count N     how many cuts (default 3)
  -seed N      of the random choices; a new one when it is not given
  -kernel ID   the kernel (default debian-6.12); test/vm/run --list shows them
  -longest D   the longest time from "faults are active" to the cut (default 3s)
  -dir DIR     where the disk and the console are kept (default build/powercut/run)

Exit status: 0 when everything was undone after every cut; 1 when not; 2 if the call
is wrong; 125 if a guest did not boot, or a signal ended it. After a failure the disk as the cut left
it is in DIR.
`

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitBench  = 125
)

func main() {
	if len(os.Args) > 1 {
		var inside error
		switch os.Args[1] {
		case "guest":
			inside = guest.Main(os.Args[2:], os.Stdout)
		case "traffic":
			inside = guest.Traffic(os.Args[2:])
		default:
			os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
		}
		if inside != nil {
			fmt.Fprintln(os.Stderr, "powercut:", inside)
			os.Exit(exitFailed)
		}
		return
	}
	os.Exit(run(nil, os.Stdout, os.Stderr))
}

func run(args []string, out, complaints io.Writer) int {
	c := &campaign{out: out}
	flags := flag.NewFlagSet("powercut", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.IntVar(&c.count, "count", 3, "")
	flags.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano())&(1<<53-1), "")
	flags.StringVar(&c.kernel, "kernel", "debian-6.12", "")
	flags.DurationVar(&c.longest, "longest", 3*time.Second, "")
	flags.StringVar(&c.dir, "dir", filepath.FromSlash("build/powercut/run"), "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, usage)
		return 0
	}
	if err == nil {
		err = c.checkOptions(flags.Args())
	}
	if err != nil {
		fmt.Fprintf(complaints, "powercut: %v (-help says more)\n", err)
		return exitUsage
	}
	// The guests are to die with this process. The kernel means the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err = c.run(ctx)
	var bench benchError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &bench) || ctx.Err() != nil:
		fmt.Fprintln(complaints, "powercut:", err)
		return exitBench
	}
	fmt.Fprintln(complaints, "powercut:", err)
	return exitFailed
}

func (c *campaign) checkOptions(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unknown argument %q", rest[0])
	case c.count < 1:
		return fmt.Errorf("-count %d: want 1 or more", c.count)
	case c.longest <= 0:
		return fmt.Errorf("-longest %v: want more than 0", c.longest)
	}
	return nil
}

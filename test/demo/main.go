//go:build linux

// Demo shows what a fault does: on cgroups and network namespaces of its own it
// runs an HTTP service and two equal clients, lets the real faultline take 30 %
// of the packets of one of them, and shows what each client felt, and that
// nothing is left of the fault.
//
// It ends with 0 when everything was as it should be, 1 when something was not,
// 2 when it was called wrongly, and 130 when it was interrupted.
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
	"strconv"
	"syscall"
)

const (
	exitGood        = 0
	exitBad         = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(context.Background(), role, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(exitBad)
		}
		os.Exit(exitGood)
	}
	os.Exit(start(os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

// play is what this program does as a process on the stage.
func play(ctx context.Context, role string, out io.Writer) error {
	switch role {
	case roleService:
		return serve(ctx)
	case roleClient, roleBystander:
		rate, err := strconv.Atoi(os.Getenv(rateVariable))
		if err != nil || rate <= 0 {
			return fmt.Errorf("wanted a rate in %s", rateVariable)
		}
		return ask(ctx, out, rate)
	}
	return fmt.Errorf("no such role")
}

func start(args []string, stdout *os.File, stderr io.Writer, getenv func(string) string) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: test/demo/run [-faultline FILE]\n\n"+
			"Shows a client that loses packets to a service and gets them back. It takes\n"+
			"half a minute and needs root and cgroup v2. No interface, cgroup or file of\n"+
			"the machine is touched but those that it makes; Ctrl-C takes them away.")
		flags.PrintDefaults()
	}
	faultline := flags.String("faultline", "bin/faultline", "the program `FILE`")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitGood
	} else if err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "demo: no arguments are taken, got %q\n", flags.Arg(0))
		return exitUsage
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "demo: cgroups, network namespaces and eBPF need root; run: sudo make demo")
		return exitUsage
	}
	program, err := filepath.Abs(*faultline)
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return exitUsage
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// Output that nobody reads any more must not end the demo before it has
	// cleaned up. Ignoring the signal would be inherited by the programs.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	s := newScreen(stdout, getenv)
	d := &demo{screen: s, faultline: program}
	err = errors.Join(d.run(ctx), d.close())
	s.show("")
	switch {
	case ctx.Err() != nil:
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(stderr, "demo: %v\n", err)
		}
		fmt.Fprintln(stderr, "demo: interrupted; the fault, the processes, cgroups and networks are gone")
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return exitBad
	}
	// Last, when really nothing is left.
	s.say("rollback: %s", s.good(d.result.Rollback))
	return exitGood
}

// Command faultline injects faults into running Linux services from inside the
// kernel, one cgroup at a time, and always takes them back.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/term"
)

// version is set by the linker for a release.
var version = ""

// env is everything that the program knows of the world around it, so that
// tests can be the world.
type env struct {
	// args are the arguments without the program's name.
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	// terminal tells whether a writer of the two above is a terminal, and its
	// size in characters (0 when not known).
	terminal func(io.Writer) (size, bool)
	getenv   func(string) string
	// ctx ends when the program should, whatever it does.
	ctx context.Context
	// signals are those of a person or a service manager who wants the
	// program to end.
	signals <-chan os.Signal
	now     func() time.Time
	version string
	// program is the name under which the program starts itself again.
	program string
}

// size is that of a terminal.
type size struct{ width, height int }

func main() {
	// Buffered: a signal that comes while the one before is dealt with must
	// not be lost. SIGQUIT and SIGHUP would end the process by default, and
	// with it a chance to take everything back.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	// Without a receiver a write to a closed pipe on stdout or stderr ends the
	// process at once (os/signal, "SIGPIPE"), in the middle of a run.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	os.Exit(run(&env{
		args:     os.Args[1:],
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: terminal,
		getenv:   os.Getenv,
		program:  os.Args[0],
		ctx:      context.Background(),
		signals:  signals,
		now:      time.Now,
		version:  buildVersion(),
	}))
}

func terminal(w io.Writer) (size, bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return size{}, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return size{}, true
	}
	return size{width, height}, true
}

// buildVersion is the release, or what the Go tool noted about the tree.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "-dirty"
			}
		}
	}
	if revision == "" {
		return "dev"
	}
	return "dev-" + revision[:min(12, len(revision))] + modified
}

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const usage = `usage: test/vm/run --kernel ID [options] -- COMMAND [ARGUMENT...]
       test/vm/run --fetch [--kernel ID]
       test/vm/run --list

Boots a kernel of test/vm/kernels.yaml under QEMU, runs COMMAND in it as root,
prints its output and ends with its exit status. The guest sees the machine's
files, read-only but for the working tree. test/vm/README.md has more.

Options:
  --kernel ID        the kernel; --list shows them
  --cpus N           virtual CPUs (default 2)
  --memory M         memory, such as 2G or 512M (default 2G)
  --disk M           size of the scratch disk /dev/vdb (default 1G)
  --nbd SOCKET       /dev/vdb is the disk of the NBD server at this Unix socket
                     and no scratch disk: it is there after the guest has gone
  --timeout D        time limit for boot and command, such as 90s (default 10m)
  --append ARGS      more for the kernel's command line
  --env NAME[=VALUE] environment variable of COMMAND; may be repeated. Variables
                     FAULTLINE_* are passed on by themselves
  --systemd          systemd as the first process, COMMAND as a service of it
  --console FILE     also write the guest's console to FILE
  --verbose          show the guest's console and the times on standard error
  --fetch            get the kernel, or all of them, into the cache and end
  --list             list the kernels and end
  --help             show this and end

Exit status: COMMAND's; 128+N if signal N ended it; 126 or 127 if it can't be
started; 2 if the call is wrong; 125 if the guest hangs, panics or doesn't boot.
`

// options are what the command line says.
type options struct {
	kernel  string
	cpus    int
	memory  string
	disk    int64
	nbd     string
	timeout time.Duration
	append  string
	env     []string
	systemd bool
	console string
	verbose bool
	fetch   bool
	list    bool
	help    bool
	command []string
}

// parse reads the command line. getenv is asked for the variables that --env names
// without a value.
func parse(args []string, getenv func(string) (string, bool)) (options, error) {
	var o options
	flags := flag.NewFlagSet("test/vm/run", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.kernel, "kernel", "", "")
	flags.IntVar(&o.cpus, "cpus", 2, "")
	flags.StringVar(&o.memory, "memory", "2G", "")
	disk := flags.String("disk", "1G", "")
	flags.StringVar(&o.nbd, "nbd", "", "")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "")
	flags.StringVar(&o.append, "append", "", "")
	flags.Func("env", "", func(value string) error {
		name, _, given := strings.Cut(value, "=")
		if name == "" {
			return errors.New("want NAME or NAME=VALUE")
		}
		if !given {
			set, ok := getenv(name)
			if !ok {
				return nil
			}
			value = name + "=" + set
		}
		o.env = append(o.env, value)
		return nil
	})
	flags.BoolVar(&o.systemd, "systemd", false, "")
	flags.StringVar(&o.console, "console", "", "")
	flags.BoolVar(&o.verbose, "verbose", false, "")
	flags.BoolVar(&o.fetch, "fetch", false, "")
	flags.BoolVar(&o.list, "list", false, "")
	flags.BoolVar(&o.help, "help", false, "")
	flags.BoolVar(&o.help, "h", false, "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.command = flags.Args()
	if o.help || o.list {
		return o, nil
	}
	var err error
	if o.disk, err = size(*disk); err != nil {
		return o, fmt.Errorf("--disk: %w", err)
	}
	if _, err = size(o.memory); err != nil {
		return o, fmt.Errorf("--memory: %w", err)
	}
	sized := false
	flags.Visit(func(f *flag.Flag) { sized = sized || f.Name == "disk" })
	switch {
	case sized && o.nbd != "":
		return o, errors.New("--disk is the size of a scratch disk, and --nbd takes another disk: give one of them")
	case o.fetch && len(o.command) > 0:
		return o, errors.New("--fetch takes no command")
	case o.fetch:
		return o, nil
	case o.kernel == "":
		return o, errors.New("--kernel is missing; --list shows the kernels")
	case len(o.command) == 0:
		return o, errors.New("the command is missing: test/vm/run --kernel ID -- COMMAND")
	case o.cpus < 1:
		return o, fmt.Errorf("--cpus %d: want 1 or more", o.cpus)
	case o.timeout <= 0:
		return o, fmt.Errorf("--timeout %v: want more than 0", o.timeout)
	}
	return o, nil
}

var sizes = regexp.MustCompile(`^([1-9][0-9]{0,9})([MG])$`)

// size reads a number of bytes such as 512M or 2G, powers of 1024.
func size(text string) (int64, error) {
	match := sizes.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("%q is no size: want a number and M or G, such as 2G", text)
	}
	n, err := strconv.ParseInt(match[1], 10, 64)
	if match[2] == "M" {
		return n << 20, err
	}
	return n << 30, err
}

// Command matrix runs the privileged tests, those behind the build tag
// "privileged", on this machine's kernel or on every kernel of
// test/vm/kernels.yaml. It compiles each package's tests once, as a static
// binary, and the same binaries run everywhere.
//
//	go run ./test/matrix host
//	go run ./test/matrix vm -kernels debian-6.1,ei-6.12
//
// It says per kernel what ran and what was skipped and why. It fails when a
// test fails (of those that compare times in a guest, when it fails again, alone),
// when nothing ran on a kernel, and when a test was skipped in a
// guest for a reason that the list of kernels does not know. The whole output
// of each kernel is kept in build/vm/ID.log.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"faultline.dev/faultline/test/vm/kernels"
)

// options are the command line.
type options struct {
	packages []string
	run      string
	kernels  []kernels.Kernel
	jobs     int
	cpus     int
	memory   string
	// limit is the time of one package's binary; boot is what a guest may
	// take before the first, after the last and between two.
	limit, boot time.Duration
	again       time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, w io.Writer) error {
	if len(arguments) == 0 || (arguments[0] != "host" && arguments[0] != "vm") {
		return errors.New("the first argument has to be host or vm")
	}
	onHost := arguments[0] == "host"
	o, err := parse(arguments)
	if err != nil {
		return err
	}
	if onHost && os.Geteuid() != 0 {
		return errors.New("the privileged tests need root: sudo --preserve-env=PATH make test-host")
	}
	m := matrix{options: o, w: w}
	if m.root, err = moduleRoot(ctx); err != nil {
		return err
	}
	if m.packages, err = findPackages(ctx, m.root, o.packages); err != nil {
		return err
	}
	if len(m.packages) == 0 {
		return fmt.Errorf("no package of %s has tests with the build tag %s", strings.Join(o.packages, " "), tag)
	}
	start := time.Now()
	if err := compile(ctx, m.root, filepath.Join(m.root, "build", "privileged"), m.packages); err != nil {
		return err
	}
	fmt.Fprintf(w, "compiled the privileged tests of %d packages in %s\n", len(m.packages), time.Since(start).Round(time.Second))
	if onHost {
		return m.host(ctx)
	}
	return m.guests(ctx)
}

func parse(arguments []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("matrix "+arguments[0], flag.ContinueOnError)
	packages := flags.String("packages", allPackages, "`patterns` of packages, separated by spaces; without any, kernels.yaml leaves some out in a guest")
	ids := flags.String("kernels", "", "`ids` of kernels, separated by commas; empty for all of test/vm/kernels.yaml")
	flags.StringVar(&o.run, "run", "", "only tests that match this `pattern`, as of go test")
	flags.IntVar(&o.jobs, "jobs", 1, "how many kernels at a time")
	flags.IntVar(&o.cpus, "cpus", 0, "processors of a guest; 0 for what test/vm/run takes")
	flags.StringVar(&o.memory, "memory", "", "memory of a guest; empty for what test/vm/run takes")
	flags.DurationVar(&o.limit, "limit", 25*time.Minute, "the longest that one package may take")
	flags.DurationVar(&o.boot, "boot", 3*time.Minute, "the longest that a guest may take to boot, and between packages")
	flags.DurationVar(&o.again, "for", 0, "host only: start over for this long, until something fails")
	if err := flags.Parse(arguments[1:]); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("what is %q?", flags.Arg(0))
	}
	o.packages = strings.Fields(*packages)
	o.jobs = max(o.jobs, 1)
	if *ids == "" {
		o.kernels = kernels.All()
	}
	for id := range strings.FieldsFuncSeq(*ids, func(r rune) bool { return r == ',' || r == ' ' }) {
		k, err := kernels.Find(id)
		if err != nil {
			return o, err
		}
		o.kernels = append(o.kernels, k)
	}
	return o, nil
}

// allPackages is the pattern of the whole module.
const allPackages = "./..."

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("asking go for the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// errHangs says that neither a package began nor one ended for too long.
var errHangs = errors.New("ended, since nothing happened for too long")

// matrix is one run of this program.
type matrix struct {
	options
	root     string
	packages []testPackage

	mu sync.Mutex
	w  io.Writer
}

// host runs the tests on this kernel, once or until the time is up.
func (m *matrix) host(ctx context.Context) error {
	for round, end := 1, time.Now().Add(m.again); ; round++ {
		if m.again > 0 {
			fmt.Fprintf(m.w, "round %d\n", round)
		}
		k := m.kernel(ctx, kernelRun{Kernel: hostKernel, Wanted: m.packages}, nil)
		if n := print(m.w, []kernelRun{k}); n > 0 {
			return fmt.Errorf("%d problems", n)
		}
		if time.Now().After(end) {
			return nil
		}
	}
}

// guests runs the tests on every kernel that was asked for.
func (m *matrix) guests(ctx context.Context) error {
	runs := make([]kernelRun, len(m.kernels))
	// What was asked for by name runs everywhere.
	everywhere := !slices.Equal(m.options.packages, []string{allPackages})
	if !everywhere {
		if err := m.checkSamples(); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.SetLimit(m.jobs)
	for i, k := range m.kernels {
		group.Go(func() error {
			packages := m.packages
			if !everywhere {
				packages = without(m.root, packages, k.Elsewhere, k.Sample)
			}
			runs[i] = m.guest(ctx, k.ID, "", packages)
			m.bootAgain(ctx, &runs[i])
			return nil
		})
	}
	_ = group.Wait() // what went wrong is in runs
	if m.run == "" {
		m.tryAgain(ctx, runs)
	}
	if n := print(m.w, runs); n > 0 {
		return fmt.Errorf("%d problems", n)
	}
	return nil
}

// checkSamples is the error of a test that kernels.yaml names and that is none,
// as after a renaming: it would run nowhere, and nobody would know.
func (m *matrix) checkSamples() error {
	for _, k := range m.kernels {
		for _, test := range k.Sample {
			if !slices.ContainsFunc(m.packages, func(p testPackage) bool { return slices.Contains(p.Tests, test) }) {
				return fmt.Errorf("kernel %s: no package has the test %s of its sample", k.ID, test)
			}
		}
	}
	return nil
}

// guest runs every binary once in a guest. suffix tells its files in build/vm
// from those of another one with the same kernel.
func (m *matrix) guest(ctx context.Context, id, suffix string, packages []testPackage) kernelRun {
	// This program watches each step itself; the bench's limit is behind it.
	whole := m.boot + time.Duration(len(packages))*(m.limit+m.boot)
	arguments := []string{
		filepath.Join(m.root, "test/vm/run"), "--kernel", id, "--timeout", whole.String(),
		"--console", m.console(id, suffix),
	}
	if m.cpus > 0 {
		arguments = append(arguments, "--cpus", strconv.Itoa(m.cpus))
	}
	if m.memory != "" {
		arguments = append(arguments, "--memory", m.memory)
	}
	return m.kernel(ctx, kernelRun{Kernel: id, Wanted: packages, suffix: suffix}, append(arguments, "--"))
}

// without leaves out what lies below some folders of the module, but for some
// tests.
func without(root string, packages []testPackage, folders, sample []string) (left []testPackage) {
	for _, p := range packages {
		if slices.ContainsFunc(folders, func(folder string) bool {
			return strings.HasPrefix(p.Dir+"/", filepath.Join(root, folder)+"/")
		}) {
			p.Tests = slices.DeleteFunc(slices.Clone(p.Tests), func(test string) bool { return !slices.Contains(sample, test) })
		}
		if len(p.Tests) > 0 {
			left = append(left, p)
		}
	}
	return left
}

// kernel runs every binary that is wanted on one kernel; before is the command
// that brings the script there.
func (m *matrix) kernel(ctx context.Context, k kernelRun, before []string) kernelRun {
	start := time.Now()
	if err := m.runScript(ctx, &k, before); err != nil {
		k.Problem = err.Error()
	}
	k.Elapsed = time.Since(start)
	return k
}

func (m *matrix) runScript(ctx context.Context, k *kernelRun, before []string) error {
	dir := filepath.Join(m.root, "build", "vm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the output: %w", err)
	}
	path := filepath.Join(dir, k.Kernel+k.suffix+".sh")
	if err := os.WriteFile(path, []byte(script(m.root, k.Wanted, m.run, m.limit)), 0o755); err != nil {
		return fmt.Errorf("writing the script: %w", err)
	}
	k.Log = filepath.Join("build", "vm", k.Kernel+k.suffix+".log")
	log, err := os.Create(filepath.Join(m.root, k.Log))
	if err != nil {
		return fmt.Errorf("making the log: %w", err)
	}
	defer log.Close()

	// A guest that hangs must not use up the other kernels' time.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(m.boot, func() { cancel(errHangs) })
	defer watch.Stop()

	var unread error
	split := &splitter{begun: func() { watch.Reset(m.limit + time.Minute) }, done: func(p *packageRun, status int) {
		watch.Reset(m.boot)
		if err := p.read(context.WithoutCancel(ctx), status); err != nil {
			unread = errors.Join(unread, err)
		}
		k.Packages = append(k.Packages, *p)
		m.progress(k.Kernel, p)
	}}
	var complaints strings.Builder
	arguments := slices.Concat(before, []string{"/bin/sh", path})
	command := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	command.Dir = m.root
	command.Stdout = io.MultiWriter(log, split)
	command.Stderr = io.MultiWriter(log, &complaints)
	// A guest's runner and the tests clean up after themselves on SIGTERM.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 30 * time.Second
	err = command.Run()
	split.close()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			k.hung = errors.Is(cause, errHangs)
			err = errors.Join(err, cause)
		}
		err = fmt.Errorf("%w\n%s", err, indent(tail(complaints.String(), 60)))
	}
	return errors.Join(err, unread)
}

func (m *matrix) progress(kernel string, p *packageRun) {
	m.mu.Lock()
	defer m.mu.Unlock()
	verdict := "ok  "
	problems := p.problems(kernel)
	if len(problems) > 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(m.w, "%s  %-12s %-48s %3d passed %2d failed %2d skipped  %.1fs\n",
		verdict, kernel, strings.TrimPrefix(p.ImportPath, "faultline.dev/"), p.count(passed), p.count(failed), p.count(skipped), p.Elapsed.Seconds())
	for _, problem := range problems {
		fmt.Fprintln(m.w, indent(problem))
	}
}

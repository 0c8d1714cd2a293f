//go:build linux

package env

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

//go:embed c/calls.c
var callsSource []byte

// compiledIn is the directory of compileCalls; "" before it was made.
var compiledIn string

// compileCalls builds the program of c/calls.c, once for all tests of a process, and
// returns its path.
var compileCalls = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "faultline-calls-")
	if err != nil {
		return "", err
	}
	compiledIn = dir
	source, binary := filepath.Join(dir, "calls.c"), filepath.Join(dir, "calls")
	if err := os.WriteFile(source, callsSource, 0o644); err != nil {
		return "", err
	}
	flags := []string{"-static", "-O1", "-Wall", "-Werror", "-pthread", "-o", binary, source}
	if runtime.GOARCH == "amd64" {
		// The compat entry is called with something pushed.
		flags = append(flags, "-mno-red-zone")
	}
	if out, err := exec.Command("gcc", flags...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling %s: %w\n%s", source, err, out)
	}
	return binary, nil
})

// Caller makes system calls, in a process of its own that was written in C: no
// runtime makes any behind its back.
type Caller struct{ process *Process }

// NewCaller starts one in a cgroup.
func NewCaller(t testing.TB, cgroup fault.Cgroup) Caller {
	t.Helper()
	binary, err := compileCalls()
	if err != nil {
		t.Fatal(err)
	}
	c := Caller{StartProgram(t, cgroup, nil, binary)}
	c.process.Line()
	return c
}

// Order is what a Caller is to do.
type Order struct {
	// Number of the call, and its arguments; in the table of 32-bit processes with
	// Compat.
	Number    uint32
	Arguments []int64
	Compat    bool
	// Texts are those arguments that point at one, without blanks, by their index.
	Texts map[int]string
	// Times is how often each of Threads threads makes the call; 0 stands for 1.
	Times, Threads int
	// Fork has a new process do it.
	Fork bool
}

// Results says how often each errno came; 0 stands for success.
type Results map[unix.Errno]int

// Begin gives an order.
func (c Caller) Begin(o Order) {
	words := []string{"native", strconv.Itoa(max(o.Threads, 1)), strconv.Itoa(max(o.Times, 1)), fmt.Sprint(o.Number)}
	if o.Compat {
		words[0] = "compat"
	}
	if o.Fork {
		words = append([]string{"fork"}, words...)
	}
	for i, a := range o.Arguments {
		word := fmt.Sprint(a)
		if text, ok := o.Texts[i]; ok {
			word = "@" + text
		}
		words = append(words, word)
	}
	c.process.Tell(strings.Join(words, " "))
}

// End waits until the order is carried out.
func (c Caller) End() Results {
	c.process.t.Helper()
	var results Results
	c.process.Read(&results)
	return results
}

// Do is Begin and End.
func (c Caller) Do(o Order) Results {
	c.process.t.Helper()
	c.Begin(o)
	return c.End()
}

// PID is the process's id.
func (c Caller) PID() int { return c.process.PID() }

// Move puts the process into another cgroup.
func (c Caller) Move(to fault.Cgroup) {
	WriteFile(c.process.t, to, "cgroup.procs", strconv.Itoa(c.PID()))
}

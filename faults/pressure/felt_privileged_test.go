//go:build linux && privileged

package pressure_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/pressure"
	"faultline.dev/faultline/test/env"
)

func TestBurnerGetsItsQuota(t *testing.T) {
	parent := env.Controlled(t, kernel.CPUController)
	target, neighbour := env.Child(t, parent, "target"), env.Child(t, parent, "neighbour")
	env.Burn(t, target)
	env.Burn(t, neighbour)
	i := env.Inject(t, pressure.CPU(), cpu("20%"), nil, target)
	used := env.ReadStat(t, target, "cpu.stat", "usage_usec")
	others := env.ReadStat(t, neighbour, "cpu.stat", "usage_usec")
	await(t, func() error {
		if c := i.Count(); c.Matched < 20 {
			return fmt.Errorf("%d periods", c.Matched)
		}
		return nil
	})
	used = env.ReadStat(t, target, "cpu.stat", "usage_usec") - used
	others = env.ReadStat(t, neighbour, "cpu.stat", "usage_usec") - others
	c := i.Count()
	// A period is cut off by the next tick, and what it took too much is taken
	// from the next one.
	if share := 20_000 * (c.Matched + 1); used > share*3/2 {
		t.Errorf("used %d us in %d periods of 20000 us", used, c.Matched)
	}
	if c.Injected < c.Matched/2 || c.Missed != 0 {
		t.Errorf("counters %+v of a burner", c)
	}
	if throttled := env.ReadStat(t, neighbour, "cpu.stat", "nr_throttled"); throttled != 0 || others < used {
		t.Errorf("the neighbour was throttled %d times and used %d us", throttled, others)
	}
	i.End()
	end := i.Count()
	if end.Injected < c.Injected {
		t.Errorf("counted %+v, and %+v at the end", c, end)
	}
	// What was used before the kernel counts in periods does not end: it goes
	// on without a limit.
	await(t, func() error {
		if now := env.ReadStat(t, target, "cpu.stat", "usage_usec"); now < 2*used {
			return fmt.Errorf("used %d us", now)
		}
		return nil
	})
	if periods := env.ReadStat(t, target, "cpu.stat", "nr_throttled"); periods > end.Injected+1 {
		t.Errorf("throttled after the end: %d, %d by the fault", periods, end.Injected)
	}
}

func TestForksFailAtTheLimit(t *testing.T) {
	parent := env.Controlled(t, kernel.PidsController)
	target, neighbour := env.Child(t, parent, "target"), env.Child(t, parent, "neighbour")
	env.WriteFile(t, target, "cgroup.subtree_control", "+pids")
	// The limit counts for the cgroups below.
	leaf := env.Child(t, target, "leaf")
	const script = "for i in 1 2 3 4 5; do sleep 1000 >/dev/null 2>&1 & all=\"$all $!\"; echo $i; done; kill $all; wait"
	i := env.Inject(t, pressure.Pids(), pids("3"), nil, target)
	p := env.StartProgram(t, leaf, nil, "sh", "-c", script)
	lines := []string{p.Line(), p.Line()}
	if status := p.Status(); status == 0 || strings.Join(lines, " ") != "1 2" {
		t.Errorf("the shell and its children became more than 3: %q, status %d", lines, status)
	}
	if c := i.Count(); c.Injected != 1 || c.Matched != 1 || c.Missed != 0 {
		t.Errorf("counters %+v for one fork that failed", c)
	}
	if out := env.StartProgram(t, neighbour, nil, "sh", "-c", script).Wait(); len(strings.Fields(out)) != 5 {
		t.Errorf("the neighbour printed %q", out)
	}
	i.End()
	if out := env.StartProgram(t, leaf, nil, "sh", "-c", script).Wait(); len(strings.Fields(out)) != 5 {
		t.Errorf("after the end it printed %q", out)
	}
	if c := i.Count(); c.Injected != 1 {
		t.Errorf("counters %+v after the end", c)
	}
	if c := env.Inject(t, pressure.Pids(), pids("3"), nil, target).Count(); c != (fault.Counters{}) {
		t.Errorf("counters %+v of a fault that has just begun", c)
	}
}

const mib = 1 << 20

// eat maps and touches as many MiB as each line of in says.
func eat(in io.Reader, out *json.Encoder, _ []string) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		memory, err := unix.Mmap(-1, 0, n*mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		// Many small charges: a huge page is one of 2 MiB.
		if err := unix.Madvise(memory, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
		for i := 0; i < len(memory); i += os.Getpagesize() {
			memory[i] = 1
		}
		if err := out.Encode(n); err != nil {
			return err
		}
	}
	return lines.Err()
}

func TestEaterIsSlowedDownAndLives(t *testing.T) {
	parent := env.Controlled(t, kernel.MemoryController)
	target, neighbour := env.Child(t, parent, "target"), env.Child(t, parent, "neighbour")
	eater, other := env.Start(t, target, nil, "eat"), env.Start(t, neighbour, nil, "eat")
	var n int
	eater.Tell("24")
	eater.Read(&n)
	i := env.Inject(t, pressure.Memory(), memory("48MiB"), nil, target)
	eater.Tell("64")
	done := make(chan int)
	go func() {
		var n int
		eater.Read(&n)
		done <- n
	}()
	await(t, func() error {
		if c := i.Count(); c.Injected < 5 {
			return fmt.Errorf("reclaimed %d times", c.Injected)
		}
		return nil
	})
	other.Tell("64")
	other.Read(&n)
	// 88 MiB were asked for, and nothing of that can be reclaimed without swap:
	// the nearer to the limit, the slower.
	if now := env.ReadStat(t, target, "memory.stat", "anon"); now > 64*mib {
		t.Errorf("has %d MiB with a limit of 48", now/mib)
	}
	select {
	case <-done:
		t.Error("was not slowed down")
	default:
	}
	i.End()
	if n := <-done; n != 64 {
		t.Errorf("ate %d MiB", n)
	}
	for _, event := range []string{"oom", "oom_kill", "max"} {
		if n := env.ReadStat(t, target, "memory.events", event); n != 0 {
			t.Errorf("%s happened %d times", event, n)
		}
	}
	if c := i.Count(); c.Injected != c.Matched || c.Injected != env.ReadStat(t, target, "memory.events", "high") {
		t.Errorf("counters %+v", c)
	}
	if n := env.ReadStat(t, neighbour, "memory.events", "high"); n != 0 {
		t.Errorf("the neighbour was slowed down %d times", n)
	}
}

// await tries until it succeeds, or fails the test.
func await(t *testing.T, fn func() error) {
	t.Helper()
	if err := env.Within(time.Minute, fn); err != nil {
		t.Fatal(err)
	}
}

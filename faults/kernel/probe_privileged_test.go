//go:build linux && privileged

package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"faultline.dev/faultline/faults/kernel"
)

// newProber returns a prober for the machine that runs the test.
func newProber(t *testing.T) *kernel.Prober {
	t.Helper()
	root, err := kernel.Cgroup2Mount()
	if err != nil && !errors.Is(err, kernel.ErrNoCgroup2) {
		t.Fatal(err)
	}
	return kernel.NewProber(root, slog.New(slog.DiscardHandler))
}

// traces is what a probe could leave on a machine.
type traces struct {
	fds     int
	cgroups string
	links   string
	netns   string
	qdiscs  string
}

func readTraces(t *testing.T, root string) traces {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(root, "faultline-probe-*"))
	if err != nil {
		t.Fatal(err)
	}
	ip := func(args ...string) string {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	return traces{
		fds: len(fds), cgroups: strings.Join(left, " "),
		links: ip("ip", "-o", "link"), netns: ip("ip", "netns"), qdiscs: ip("tc", "qdisc"),
	}
}

func TestProbesLeaveNothingBehind(t *testing.T) {
	root, err := kernel.Cgroup2Mount()
	if err != nil {
		t.Skip(err)
	}
	// The first round opens what the runtime and the libraries keep.
	p := newProber(t)
	for _, c := range p.All() {
		p.Probe(context.Background(), c)
	}
	before := readTraces(t, root)
	p = newProber(t)
	for _, c := range p.All() {
		p.Probe(context.Background(), c)
	}
	after := readTraces(t, root)
	if before != after {
		t.Errorf("probes left something behind:\nbefore %+v\nafter  %+v", before, after)
	}
	if after.cgroups != "" {
		t.Errorf("probe cgroups left: %s", after.cgroups)
	}
}

func TestAnswersOnThisKernel(t *testing.T) {
	t.Logf("%+v", kernel.Describe())
	p := newProber(t)
	var b strings.Builder
	for _, c := range p.All() {
		a := p.Probe(context.Background(), c)
		fmt.Fprintf(&b, "%-20s %-8s %s | %s\n", c, a.Available, a.Reason, a.Remedy)
		if a.Available != kernel.Yes && a.Reason == "" {
			t.Errorf("%s: %s without a reason", c, a.Available)
		}
		if a.Available == kernel.No && a.Remedy == "" {
			t.Errorf("%s: no without a remedy", c)
		}
		if a.Available == kernel.Unknown {
			t.Errorf("%s: unknown to root: %s", c, a.Reason)
		}
		if again := p.Probe(context.Background(), c); again != a {
			t.Errorf("%s: second answer %+v, first %+v", c, again, a)
		}
	}
	t.Logf("\n%s", &b)
}

func TestConcurrentProbesAgree(t *testing.T) {
	root, err := kernel.Cgroup2Mount()
	if err != nil {
		t.Skip(err)
	}
	const workers = 4
	first := newProber(t)
	all := first.All()
	answers := make([][]kernel.Answer, workers)
	var wg sync.WaitGroup
	for w := range workers {
		// Two share a prober, the others have their own: neither the memory nor
		// the probes themselves may get in each other's way.
		p := first
		if w > 1 {
			p = newProber(t)
		}
		answers[w] = make([]kernel.Answer, len(all))
		wg.Go(func() {
			for i := range all {
				// Each begins elsewhere.
				i = (i + w*len(all)/workers) % len(all)
				answers[w][i] = p.Probe(context.Background(), all[i])
			}
		})
	}
	wg.Wait()
	for w := 1; w < workers; w++ {
		for i, c := range all {
			if answers[w][i].Available != answers[0][i].Available {
				t.Errorf("%s: worker %d found %+v, worker 0 %+v", c, w, answers[w][i], answers[0][i])
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(root, "faultline-probe-*")); len(left) > 0 {
		t.Errorf("probe cgroups left: %v", left)
	}
}

//go:build linux && privileged

package kernel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/vm/kernels"
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
	p := newProber(t)
	root := kernel.Describe().Cgroup2
	// The runtime and the libraries keep descriptors that they open once, so those
	// are counted from the second round on. Everything else from the first: modules
	// that the first round loads must not leave interfaces.
	before := readTraces(t, root)
	for _, c := range p.All() {
		p.Probe(context.Background(), c)
	}
	before.fds = readTraces(t, root).fds
	p = newProber(t)
	for _, c := range p.All() {
		p.Probe(context.Background(), c)
	}
	if after := readTraces(t, root); before != after {
		t.Errorf("probes left something behind:\nbefore %+v\nafter  %+v", before, after)
	}
}

func TestAnswersOnThisKernel(t *testing.T) {
	declared, bench, err := kernels.Current()
	if err != nil {
		t.Fatal(err)
	}
	description, err := json.Marshal(kernel.Describe())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", description)
	p := newProber(t)
	answers := p.ProbeAll(context.Background())
	if len(answers) != len(p.All()) {
		t.Errorf("%d answers for %d capabilities", len(answers), len(p.All()))
	}
	var table strings.Builder
	for _, c := range p.All() {
		a := answers[c]
		fmt.Fprintf(&table, "%-20s %-8s %s | %s\n", c, a.Available, a.Reason, a.Remedy)
		switch {
		case a.Available == kernel.Unknown:
			t.Errorf("%s: unknown to root: %s", c, a.Reason)
		case a.Available == kernel.No && (a.Reason == "" || a.Remedy == ""):
			t.Errorf("%s: no without reason or remedy: %+v", c, a)
		case a.OK() && a.Remedy != "":
			t.Errorf("%s: yes with a remedy: %+v", c, a)
		}
		if bench && declared.Supports(string(c)) != a.OK() {
			t.Errorf("%s: found %s, test/vm/kernels.yaml says %t for %s", c, a.Available, declared.Supports(string(c)), declared.ID)
		}
		if again := p.Probe(context.Background(), c); again != a {
			t.Errorf("%s: second answer %+v, first %+v", c, again, a)
		}
	}
	t.Logf("\n%s", &table)
}

// asNobody is set for the copy of this test that runs without privileges.
const asNobody = "FAULTLINE_KERNEL_TEST_NOBODY"

// Without privileges nothing may be concluded that is wrong for root: the same
// answer, or unknown with what to do about it.
func TestWithoutPrivilegesNothingWrongIsConcluded(t *testing.T) {
	if os.Getenv(asNobody) != "" {
		p := newProber(t)
		if err := json.NewEncoder(os.Stdout).Encode(p.ProbeAll(context.Background())); err != nil {
			t.Fatal(err)
		}
		return
	}
	// Nobody must be able to reach the program, wherever go test has put it.
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^TestWithoutPrivilegesNothingWrongIsConcluded$")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), asNobody+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("probing as nobody: %v\n%s", err, out)
	}
	var nobody map[kernel.Capability]kernel.Answer
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&nobody); err != nil {
		t.Fatalf("reading what nobody found: %v\n%s", err, out)
	}
	p := newProber(t)
	unknown := 0
	for c, a := range p.ProbeAll(context.Background()) {
		switch got := nobody[c]; {
		case got.Available == kernel.Unknown:
			unknown++
			if !strings.Contains(got.Remedy, "root") {
				t.Errorf("%s: nobody is not told to become root: %+v", c, got)
			}
		case got.Available != a.Available:
			t.Errorf("%s: nobody found %+v, root %+v", c, got, a)
		}
	}
	if unknown == 0 {
		t.Error("nothing is unknown to nobody")
	}
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

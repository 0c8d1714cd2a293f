//go:build linux && privileged

package bench_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
)

var (
	timesRoundsFlag = flag.Int("times.rounds", 100, "rounds of the times")
	faultlineFlag   = flag.String("faultline", "", "the program whose times are measured")
)

const (
	// tickPeriod is the time between two datagrams of the ticker.
	tickPeriod = 500 * time.Microsecond
	patience   = time.Minute
)

// ticked are the times at which numbered datagrams were sent (CLOCK_MONOTONIC,
// ns), from the number First on.
type ticked struct {
	First uint64  `json:"first"`
	Sent  []int64 `json:"sent"`
}

// tick sends a numbered datagram each period, and tells for each line that it
// reads when it has sent those since the last one.
func tick(in io.Reader, out *json.Encoder, _ []string) error {
	socket, err := net.Dial("udp", env.AddressB+":"+portText)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var log ticked
	go func() {
		runtime.LockOSThread()
		var packet [8]byte
		for n, next := uint64(0), monotonic(); ; n++ {
			// Late is late: what was not sent is not sent in a burst.
			next = max(next+int64(tickPeriod), monotonic())
			then := unix.NsecToTimespec(next)
			for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &then, nil), unix.EINTR) {
			}
			binary.LittleEndian.PutUint64(packet[:], n)
			now := monotonic()
			_, _ = socket.Write(packet[:]) // what is lost is counted at the other end
			mu.Lock()
			log.Sent = append(log.Sent, now)
			mu.Unlock()
		}
	}()
	if err := out.Encode("ready"); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		mu.Lock()
		now := log
		log = ticked{First: now.First + uint64(len(now.Sent))}
		mu.Unlock()
		if err := out.Encode(now); err != nil {
			return err
		}
	}
	return nil
}

// monotonic is CLOCK_MONOTONIC in nanoseconds.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // never fails for this clock
	return now.Nano()
}

// timed is a variant of the times.
type timed struct {
	b        *testing.B
	name     string
	needs    kernel.Capability
	document string
	missing  string

	stateDir string
	path     string
	ticker   *env.Process
	mu       sync.Mutex
	arrived  map[uint64]bool
	// last is the number that arrived last.
	last uint64

	// Milliseconds.
	start, interrupted, killed []float64
}

func timedVariants(b *testing.B) []*timed {
	return []*timed{
		{b: b, name: "networkLoss by tcx", needs: kernel.TCX, document: "networkLoss: {percent: 100}, mechanism: tcx"},
		{b: b, name: "networkLoss by cls_bpf", needs: kernel.ClsBPF, document: "networkLoss: {percent: 100}, mechanism: cls_bpf"},
		{b: b, name: "processPause", needs: kernel.CgroupFreeze, document: "processPause: {}"},
	}
}

// BenchmarkTimes measures from the start of `faultline run` to the first thing
// that is hit, and from Ctrl-C and from kill -9 to the last.
func BenchmarkTimes(b *testing.B) {
	if *faultlineFlag == "" {
		b.Fatal("-faultline says which program is measured; test/bench/run builds one")
	}
	prober := newProber(b)
	var active []*timed
	variants := timedVariants(b)
	before := loadAverage(b)
	for _, v := range variants {
		if answer := prober.Probe(b.Context(), v.needs); !answer.OK() {
			v.missing = answer.Reason
			continue
		}
		v.prepare()
		active = append(active, v)
	}
	bench.Interleave(*timesRoundsFlag, 2*len(active), func(i int) {
		if v := active[i/2]; i%2 == 0 {
			first, last := v.run(syscall.SIGINT)
			v.start = append(v.start, first)
			v.interrupted = append(v.interrupted, last)
		} else {
			_, last := v.run(syscall.SIGKILL)
			v.killed = append(v.killed, last)
		}
	})
	report := newReport("times", fmt.Sprintf("Milliseconds to the first and from the end to the last thing hit; load average %s before, %s after", before, loadAverage(b)))
	report.Rounds = *timesRoundsFlag
	for _, c := range []struct{ key, head string }{{"start", "run to first"}, {"interrupted", "Ctrl-C to last"}, {"killed", "kill -9 to last"}} {
		report.Columns = append(report.Columns,
			bench.Column{Key: c.key, Head: c.head, Digits: 1}, bench.Column{Key: c.key + "_worst", Head: "worst", Digits: 1})
	}
	for _, v := range variants {
		row := bench.Row{Name: v.name, Skipped: v.missing}
		if v.missing == "" {
			row.Values = map[string]bench.Spread{}
			for key, values := range map[string][]float64{"start": v.start, "interrupted": v.interrupted, "killed": v.killed} {
				row.Values[key] = bench.SpreadOf(values)
				row.Values[key+"_worst"] = bench.SpreadOf([]float64{slices.Max(values)})
			}
		}
		report.Rows = append(report.Rows, row)
	}
	write(b, report)
}

func loadAverage(b *testing.B) string {
	b.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// prepare starts the ticker and the receiver.
func (v *timed) prepare() {
	v.b.Helper()
	dir := v.b.TempDir()
	v.stateDir, v.path = filepath.Join(dir, "state"), filepath.Join(dir, "experiment.yaml")
	network, target := env.NewNetwork(v.b), env.Cgroup(v.b)
	document := fmt.Sprintf(`apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata: {name: times}
spec:
  steps: [{faults: [{target: {cgroup: %s}, duration: 10m, %s}]}]
`, strings.TrimPrefix(target.Path, env.CgroupRoot(v.b)), v.document)
	if err := os.WriteFile(v.path, []byte(document), 0o600); err != nil {
		v.b.Fatal(err)
	}
	v.receive(network)
	v.ticker = env.Start(v.b, target, network.A, "tick")
	var ready string
	v.ticker.Read(&ready)
	v.log()
}

func (v *timed) receive(network env.Network) {
	v.arrived = map[uint64]bool{}
	var socket *net.UDPConn
	network.B.Do(func() (err error) {
		socket, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(env.AddressB), Port: port})
		return err
	})
	v.b.Cleanup(func() { _ = socket.Close() })
	if err := socket.SetReadBuffer(4 << 20); err != nil {
		v.b.Fatal(err)
	}
	go func() {
		var packet [64]byte
		for {
			if n, err := socket.Read(packet[:]); err != nil || n != 8 {
				return
			}
			number := binary.LittleEndian.Uint64(packet[:])
			v.mu.Lock()
			v.arrived[number] = true
			v.last = max(v.last, number)
			v.mu.Unlock()
		}
	}()
}

// log asks for the times since the last call.
func (v *timed) log() (sent ticked) {
	v.b.Helper()
	v.ticker.Tell("")
	v.ticker.Read(&sent)
	return sent
}

// run runs faultline and ends it by a signal when the fault has effect. It
// returns the milliseconds from its start to the first thing hit and from the
// signal to the last.
func (v *timed) run(end syscall.Signal) (first, last float64) {
	v.b.Helper()
	v.log()
	v.mu.Lock()
	clear(v.arrived)
	v.mu.Unlock()
	command := exec.Command(*faultlineFlag, "run", v.path, "--state-dir", v.stateDir)
	// A file of the process's own: a guard that shares a pipe would be waited
	// for.
	errorsFile, err := os.Create(filepath.Join(filepath.Dir(v.path), "stderr"))
	if err != nil {
		v.b.Fatal(err)
	}
	defer func() { _ = errorsFile.Close() }()
	command.Stderr = errorsFile
	began := monotonic()
	if err := command.Start(); err != nil {
		v.b.Fatal(err)
	}
	if err := env.Within(patience, v.hit); err != nil {
		_ = command.Process.Kill()
		text, _ := os.ReadFile(errorsFile.Name())
		v.b.Fatalf("%s: %v\n%s", v.name, err, text)
	}
	ended := monotonic()
	if err := command.Process.Signal(end); err != nil {
		v.b.Fatal(err)
	}
	_ = command.Wait() // it was aborted or killed
	v.settle()
	sent := v.log()
	v.mu.Lock()
	defer v.mu.Unlock()
	outage, ok := bench.LongestLoss(sent.Sent, func(i int) bool { return v.arrived[sent.First+uint64(i)] })
	if v.needs == kernel.CgroupFreeze {
		outage, ok = bench.LongestPause(sent.Sent, int64(tickPeriod))
	}
	if !ok || outage.First < began || outage.First > ended {
		v.b.Fatalf("%s: ran from %d to %d, and what was hit from %d to %d", v.name, began, ended, outage.First, outage.Last)
	}
	milliseconds := func(ns int64) float64 { return float64(max(0, ns)) / 1e6 }
	return milliseconds(outage.First - began), milliseconds(outage.Last - ended)
}

// hit is the error of a run whose fault has not hit anything.
func (v *timed) hit() error {
	runs, err := journal.List(v.stateDir)
	if err != nil || len(runs) != 1 {
		return fmt.Errorf("%d runs, %w", len(runs), err)
	}
	for _, f := range runs[0].Status.GetFaults() {
		if f.GetState() == v1.FaultState_ACTIVE && f.GetInjected() > 0 {
			return nil
		}
	}
	return errors.New("nothing is hit")
}

// settle waits until datagrams arrive again and nothing is left of the run.
func (v *timed) settle() {
	v.b.Helper()
	last := func() uint64 {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.last
	}
	from := last()
	err := env.Within(patience, func() error {
		runs, err := journal.List(v.stateDir)
		for _, run := range runs {
			if run.Alive || len(run.Open) > 0 {
				return fmt.Errorf("run %s is still there", run.ID)
			}
		}
		// The lost ones were numbered too.
		if now := last(); now < from+100 {
			return fmt.Errorf("%d datagrams have arrived", now-from)
		}
		return err
	})
	if err != nil {
		v.b.Fatalf("%s: %v", v.name, err)
	}
	// A killed run without a guard leaves an empty directory, which would be
	// the next one's work.
	if out, err := exec.Command(*faultlineFlag, "revert", "--state-dir", v.stateDir).CombinedOutput(); err != nil {
		v.b.Fatalf("reverting: %v\n%s", err, out)
	}
}

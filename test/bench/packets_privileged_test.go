//go:build linux && privileged

package bench_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

var (
	outFlag        = flag.String("out", "", "directory for the reports")
	roundsFlag     = flag.Int("rounds", 61, "rounds of the packet benchmarks")
	burstFlag      = flag.Duration("burst", 20*time.Millisecond, "length of one measurement of packets")
	tcpRoundsFlag  = flag.Int("tcp.rounds", 10, "rounds of bulk TCP")
	tcpLengthFlag  = flag.Duration("tcp.length", 3*time.Second, "length of one transfer over a bare veth")
	tripRoundsFlag = flag.Int("trip.rounds", 150, "rounds of round trips")
	toxiproxyFlag  = flag.String("toxiproxy", "", "path of toxiproxy-server")
	pathFlag       = flag.Duration("path.length", 10*time.Second, "length of one transfer over a path of 20 ms or more")
)

func TestMain(m *testing.M) { env.Main(m, workloads()) }

// rare is a loss that the programs decide about and that next to never comes.
const rare = 0.001

// variant is one row.
type variant struct {
	name string
	set  setting
	// matches says whether the fault decides about the target's packets.
	matches bool

	place             *place
	missing           string
	target, bystander *sender
	warmed            uint64
}

// loss is networkLoss by a mechanism, with a filter.
func loss(mechanism string, filter *v1.Filter, observe bool) func() *v1.Fault {
	return func() *v1.Fault {
		return &v1.Fault{
			Mechanism: mechanism,
			Observe:   observe,
			Filter:    filter,
			Fault:     &v1.Fault_NetworkLoss{NetworkLoss: &v1.NetworkLoss{Percent: rare}},
		}
	}
}

// peers are n networks, with the receiver in the last one or in none. Even
// then they lead out by its interface, so that the fault is there.
func peers(n int, matching bool) (list []string) {
	for i := range n - 1 {
		list = append(list, fmt.Sprintf("10.%d.%d.0/24", 100+i/250, i%250))
	}
	if matching {
		return append(list, env.AddressB+"/32")
	}
	return append(list, "10.99.0.128/25")
}

func packetVariants() []*variant {
	ports := []string{portText}
	list := []*variant{
		{name: "nothing", set: nothing},
		{name: "nothing, again", set: nothing},
	}
	add := func(name string, matches bool, set setting) {
		list = append(list, &variant{name: name, matches: matches, set: set})
	}
	for _, mechanism := range []string{"tcx", "cls_bpf"} {
		add(mechanism+", other port", false, faultOn(target, loss(mechanism, &v1.Filter{Ports: []string{"7999"}}, false)))
		add(mechanism+", no filter", true, faultOn(target, loss(mechanism, nil, false)))
		add(mechanism+", port", true, faultOn(target, loss(mechanism, &v1.Filter{Ports: ports, Protocol: v1.Filter_UDP}, false)))
		add(mechanism+", port, observe", true, faultOn(target, loss(mechanism, &v1.Filter{Ports: ports, Protocol: v1.Filter_UDP}, true)))
		add(mechanism+", 100 CIDRs, none matches", false, faultOn(target, loss(mechanism, &v1.Filter{Peers: peers(100, false)}, false)))
		add(mechanism+", 100 CIDRs, one matches", true, faultOn(target, loss(mechanism, &v1.Filter{Peers: peers(100, true)}, false)))
	}
	add("cgroup_skb, port", true, faultOn(target, loss("cgroup_skb", &v1.Filter{Ports: ports}, false)))
	add("cgroup_skb, received", true, faultOn(receiver, loss("cgroup_skb",
		&v1.Filter{Direction: v1.Filter_INGRESS, LocalPorts: ports}, false)))
	add("netem 0.001 %", false, netem("0.001"))
	add("iptables cgroup, statistic", false, iptables)
	add("nftables cgroup, numgen", false, nftables)
	return list
}

// BenchmarkPackets compares what a small datagram costs its sender.
func BenchmarkPackets(b *testing.B) {
	report := newReport("packets", "CPU time of a small datagram, of the target and of a bystander on its interface; nothing = 1")
	report.Columns = []bench.Column{
		{Key: "target_cpu", Head: "target", Digits: 2},
		{Key: "target_best", Head: "target, undisturbed", Digits: 2},
		{Key: "bystander_cpu", Head: "bystander", Digits: 2},
		{Key: "bystander_best", Head: "bystander, undisturbed", Digits: 2},
	}
	report.Rows = measurePackets(b, packetVariants())
	write(b, report)
}

// measurePackets lets all variants send; the first is the baseline.
func measurePackets(b *testing.B, variants []*variant) (rows []bench.Row) {
	b.Helper()
	prober := newProber(b)
	var active []*variant
	for _, v := range variants {
		v.place = newPlace(b, prober)
		startSink(b, v.place)
		v.target = startSender(b, v.place, v.place.target)
		v.bystander = startSender(b, v.place, v.place.bystander)
		// After the processes are there: their namespace is where the
		// fault looks for interfaces.
		if v.missing = v.set(v.place); v.missing != "" {
			continue
		}
		v.warmed = v.target.warm() + v.bystander.warm()*v.receives()
		active = append(active, v)
	}
	bench.Interleave(*roundsFlag, 2*len(active), func(i int) {
		if v := active[i/2]; i%2 == 0 {
			v.target.run(*burstFlag)
		} else {
			v.bystander.run(*burstFlag)
		}
	})
	base := active[0]
	for _, v := range variants {
		if v.missing != "" {
			rows = append(rows, bench.Row{Name: v.name, Skipped: v.missing})
			continue
		}
		v.check(b)
		rows = append(rows, bench.Row{Name: v.name, Values: map[string]bench.Spread{
			"target_cpu":        bench.SpreadOf(bench.Ratios(v.target.cpu(), base.target.cpu())),
			"bystander_cpu":     bench.SpreadOf(bench.Ratios(v.bystander.cpu(), base.bystander.cpu())),
			"target_cpu_ns":     bench.SpreadOf(v.target.cpu()),
			"bystander_cpu_ns":  bench.SpreadOf(v.bystander.cpu()),
			"target_wall_ns":    bench.SpreadOf(v.target.wall()),
			"bystander_wall_ns": bench.SpreadOf(v.bystander.wall()),
			"target_best":       bench.SpreadOf([]float64{undisturbed(v.target) / undisturbed(base.target)}),
			"bystander_best":    bench.SpreadOf([]float64{undisturbed(v.bystander) / undisturbed(base.bystander)}),
			"target_rate":       bench.SpreadOf(bench.Ratios(base.target.wall(), v.target.wall())),
			"bystander_rate":    bench.SpreadOf(bench.Ratios(base.bystander.wall(), v.bystander.wall())),
		}})
	}
	return rows
}

// undisturbed is the CPU time per packet that a quarter of the bursts stayed
// below: what else the machine does mostly adds to it, and in a guest the time
// for which the host stopped it is part of it.
func undisturbed(s *sender) float64 { return bench.SpreadOf(s.cpu()).Low }

// receives is 1 where the receiver is the target: it gets from both senders.
func (v *variant) receives() uint64 {
	if v.name == "cgroup_skb, received" {
		return 1
	}
	return 0
}

// check compares the kernel's counter with what was sent: what was measured is
// what the name says.
func (v *variant) check(b *testing.B) {
	b.Helper()
	var want uint64
	if v.matches {
		want = v.warmed + v.target.sent() + v.bystander.sent()*v.receives()
	}
	if got := v.place.counters().Matched; got != want {
		b.Errorf("%s: the fault matched %d packets, want %d", v.name, got, want)
	}
}

// BenchmarkElsewhere compares what a datagram costs while a fault is active on
// another cgroup and another interface: what everybody on the machine pays for
// the hooks being in use at all.
func BenchmarkElsewhere(b *testing.B) {
	prober := newProber(b)
	here, there := newPlace(b, prober), newPlace(b, prober)
	startSink(b, here)
	startSender(b, there, there.target)
	mechanism := "tcx"
	if missing := faultOn(target, loss(mechanism, nil, false))(there); missing != "" {
		mechanism = "cls_bpf"
	}
	there.revert()
	before, during := startSender(b, here, here.bystander), startSender(b, here, here.bystander)
	before.warm()
	during.warm()
	bench.Interleave(*roundsFlag, 2, func(i int) {
		if i == 0 {
			before.run(*burstFlag)
			return
		}
		faultOn(target, loss(mechanism, nil, false))(there)
		during.run(*burstFlag)
		there.revert()
	})
	report := newReport("elsewhere", "CPU time of a small datagram while a fault is on another cgroup and interface; no fault = 1")
	report.Columns = []bench.Column{
		{Key: "cpu", Head: "anybody", Digits: 2},
		{Key: "best", Head: "anybody, undisturbed", Digits: 2},
	}
	report.Rows = []bench.Row{{Name: mechanism + " elsewhere", Values: map[string]bench.Spread{
		"cpu":  bench.SpreadOf(bench.Ratios(during.cpu(), before.cpu())),
		"best": bench.SpreadOf([]float64{undisturbed(during) / undisturbed(before)}),
	}}}
	write(b, report)
}

func newReport(name, title string) bench.Report {
	report := bench.Report{Benchmark: name, Kernel: "host", Title: title, Rounds: *roundsFlag, CPUs: runtime.NumCPU()}
	if id := os.Getenv(kernels.Variable); id != "" {
		report.Kernel = id
	}
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		report.Release = unix.ByteSliceToString(uname.Release[:])
	}
	return report
}

// write leaves the report for benchtable.
func write(b *testing.B, report bench.Report) {
	b.Helper()
	if *outFlag == "" {
		if err := bench.WriteTable(os.Stdout, report); err != nil {
			b.Fatal(err)
		}
		return
	}
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(*outFlag, report.Kernel+"-"+report.Benchmark+".json")
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
}

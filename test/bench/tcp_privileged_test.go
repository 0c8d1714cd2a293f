//go:build linux && privileged

package bench_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
)

// percent is what bulk TCP loses.
const percent = 5

// bulk is one variant of bulk TCP.
type bulk struct {
	name    string
	set     setting
	place   *place
	missing string
	// Of each round.
	rates, retransmits, windows, roundTrips []float64
}

// transfer is what is read of iperf3's report.
type transfer struct {
	Error string `json:"error"`
	End   struct {
		SumSent struct {
			Bytes       float64 `json:"bytes"`
			Retransmits float64 `json:"retransmits"`
		} `json:"sum_sent"`
		SumReceived struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Streams []struct {
			Sender struct {
				// MaxWindow in bytes, MeanRTT in microseconds.
				MaxWindow float64 `json:"max_snd_cwnd"`
				MeanRTT   float64 `json:"mean_rtt"`
			} `json:"sender"`
		} `json:"streams"`
	} `json:"end"`
}

func bulkVariants() []*bulk {
	lossy := func(mechanism string) setting {
		return faultOn(target, func() *v1.Fault {
			return &v1.Fault{
				Mechanism: mechanism,
				Filter:    &v1.Filter{Direction: v1.Filter_EGRESS, Protocol: v1.Filter_TCP, Ports: []string{"5201"}},
				Fault:     &v1.Fault_NetworkLoss{NetworkLoss: &v1.NetworkLoss{Percent: percent}},
			}
		})
	}
	return []*bulk{
		{name: "netem", set: netem(strconv.Itoa(percent))},
		{name: "netem, again", set: netem(strconv.Itoa(percent))},
		{name: "tcx", set: lossy("tcx")},
		{name: "cls_bpf", set: lossy("cls_bpf")},
		{name: "cgroup_skb, by name", set: lossy("cgroup_skb")},
		{name: "no loss", set: nothing},
	}
}

// BenchmarkBulkTCP compares the throughput of TCP under 5 % loss of what is
// sent.
func BenchmarkBulkTCP(b *testing.B) {
	variants := bulkVariants()
	prober := newProber(b)
	var active []*bulk
	for _, v := range variants {
		v.place = newPlace(b, prober)
		server := env.StartProgram(b, v.place.receiver, v.place.network.B, "iperf3", "--server", "--forceflush")
		for !strings.Contains(server.Line(), "listening") {
			continue
		}
		// It stays there until the fault has found the namespace.
		holder := startSender(b, v.place, v.place.target)
		v.missing = v.set(v.place)
		holder.process.Kill()
		if v.missing == "" {
			active = append(active, v)
		}
	}
	bench.Interleave(*tcpRoundsFlag, len(active), func(i int) { active[i].run(b, *tcpLengthFlag) })

	report := newReport("tcp", "Bulk TCP under 5 % loss of what is sent, ratios of throughput")
	report.Rounds = *tcpRoundsFlag
	netem := variants[0]
	if netem.missing == "" {
		report.Columns = append(report.Columns, bench.Column{Key: "to_netem", Head: "to netem", Digits: 2})
	}
	report.Columns = append(report.Columns,
		bench.Column{Key: "to_no_loss", Head: "to no loss", Digits: 3},
		bench.Column{Key: "retransmits_per_mb", Head: "retransmits per MB", Digits: 2},
		bench.Column{Key: "rtt_us", Head: "mean RTT, us", Digits: 0},
		bench.Column{Key: "percent_lost", Head: "lost, %", Digits: 2})
	free := variants[len(variants)-1]
	for _, v := range variants {
		row := bench.Row{Name: v.name, Skipped: v.missing}
		if v.missing == "" {
			row.Values = map[string]bench.Spread{
				"to_no_loss":         bench.SpreadOf(bench.Ratios(v.rates, free.rates)),
				"bits_per_second":    bench.SpreadOf(v.rates),
				"retransmits_per_mb": bench.SpreadOf(v.retransmits),
				"max_window_bytes":   bench.SpreadOf(v.windows),
				"rtt_us":             bench.SpreadOf(v.roundTrips),
			}
			if netem.missing == "" {
				row.Values["to_netem"] = bench.SpreadOf(bench.Ratios(v.rates, netem.rates))
			}
		}
		if v.place.injection != nil {
			counters := v.place.counters()
			if counters.Injected == 0 {
				b.Errorf("%s: nothing was lost", v.name)
			}
			row.Values["percent_lost"] = bench.SpreadOf([]float64{100 * float64(counters.Injected) / float64(counters.Matched)})
		}
		report.Rows = append(report.Rows, row)
	}
	write(b, report)
}

// run transfers for that long and keeps the result.
func (v *bulk) run(b *testing.B, length time.Duration) {
	b.Helper()
	client := env.StartProgram(b, v.place.target, v.place.network.A, "iperf3", "--client", env.AddressB,
		"--time", strconv.Itoa(max(1, int(length.Seconds()))), "--interval", "0", "--json")
	var result transfer
	if err := json.Unmarshal([]byte(client.Wait()), &result); err != nil {
		b.Fatalf("reading iperf3's report: %v", err)
	}
	if result.Error != "" || len(result.End.Streams) != 1 {
		b.Fatalf("%s: iperf3: %s", v.name, result.Error)
	}
	v.rates = append(v.rates, result.End.SumReceived.BitsPerSecond)
	v.retransmits = append(v.retransmits, result.End.SumSent.Retransmits/(result.End.SumSent.Bytes/1e6))
	v.windows = append(v.windows, result.End.Streams[0].Sender.MaxWindow)
	v.roundTrips = append(v.roundTrips, result.End.Streams[0].Sender.MeanRTT)
}

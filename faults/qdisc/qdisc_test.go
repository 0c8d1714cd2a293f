package qdisc

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"faultline.dev/faultline/faults/fault"
)

// What is given back is dumped as what was dumped, for every time that codel
// can keep (us_to_codel_time and codel_time_to_us of net/codel.h).
func TestCodelTimesComeBack(t *testing.T) {
	kept := func(us uint32) uint64 { return uint64(us) * 1000 / 1024 }
	dumped := func(time uint64) uint32 { return uint32(time * 1024 / 1000) }
	for _, from := range []uint64{0, 4882, 97656, 1 << 20, math.MaxUint32*1000/1024 - 5000} {
		for time := from; time < from+5000; time++ {
			if got := dumped(kept(codelTime(dumped(time)))); got != dumped(time) {
				t.Fatalf("%d is dumped as %d, and then as %d", time, dumped(time), got)
			}
		}
	}
}

func TestOptionsAreParsedAsTheyAreWritten(t *testing.T) {
	limits := Limits{Packets: 1, FlowPackets: 2, Horizon: 3 * time.Second}
	if got := limitsOf(limits.options()); got != limits {
		t.Errorf("%+v", got)
	}
	q := Qdisc{Kind: kindFQCodel, Options: bytes.Join([][]byte{attribute(codelTarget, []byte{0x87, 0x13, 0, 0}), attribute(9, []byte{1, 0, 0, 0})}, nil)}
	want := bytes.Join([][]byte{attribute(codelTarget, []byte{0x88, 0x13, 0, 0}), attribute(9, []byte{1, 0, 0, 0})}, nil)
	if diff := cmp.Diff(want, again(q)); diff != "" {
		t.Error(diff)
	}
}

func TestLimitsGrowWithDelayAndRate(t *testing.T) {
	for _, test := range []struct {
		params Params
		want   Limits
	}{
		{Params{}, Limits{40_000, 10_000, 10 * time.Second}},
		{Params{Delay: 100 * time.Millisecond}, Limits{160_000, 40_000, 10 * time.Second}},
		{Params{Delay: 10 * time.Second, Rate: 10_000}, Limits{800_000, 200_000, 21 * time.Second}},
		{Params{Delay: 10 * time.Second}, Limits{1_000_000, 250_000, 21 * time.Second}},
		{Params{Delay: 35 * time.Minute}, Limits{1_000_000, 250_000, 70*time.Minute + time.Second}},
	} {
		got, err := test.params.limits()
		if err != nil || got != test.want || !got.Allows(test.params.Delay) {
			t.Errorf("%+v: %+v, %v", test.params, got, err)
		}
	}
	for _, delay := range []time.Duration{-1, 36 * time.Minute, 24 * time.Hour, math.MaxInt64} {
		if _, err := (Params{Delay: delay}).limits(); !errors.Is(err, fault.ErrUnavailable) {
			t.Errorf("%s: %v", delay, err)
		}
	}
}

func TestLinesThatLast(t *testing.T) {
	const (
		noqueue  = "qdisc noqueue 0: parent root"
		explicit = "qdisc fq_codel 5: parent root options 01"
		clsact   = "qdisc clsact ffff:0 parent ffff:fff1"
		filter   = "filter egress bpf priority 1 handle 0x1 x program 1 x"
		ours     = "qdisc fq fa17: parent root options 02" + lineOurs
		unused   = ours + lineUnused
	)
	for _, test := range []struct {
		name                string
		before, after, want []string
	}{
		{"as before", []string{noqueue, clsact}, []string{noqueue, clsact}, []string{noqueue, clsact}},
		{"other options", []string{explicit}, []string{noqueue}, []string{explicit}},
		{"another fault still uses fq", []string{noqueue, clsact, filter}, []string{ours}, []string{clsact, filter}},
		{"left behind", []string{noqueue}, []string{unused}, []string{noqueue}},
		{"another fault was first", []string{ours, filter}, []string{noqueue}, []string{filter}},
		{"down", []string{noqueue}, []string{lineNone}, []string{}},
		{"down, and what is explicit is gone", []string{explicit}, []string{lineNone}, []string{explicit}},
		{"was down", []string{lineNone}, []string{noqueue}, []string{}},
	} {
		if diff := cmp.Diff(test.want, Lasting(test.before, test.after)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	if !LeftBehind(unused) || LeftBehind(ours) || LeftBehind(noqueue) {
		t.Error("only what nobody uses is left behind")
	}
}

func TestLinesTellOptions(t *testing.T) {
	quantum := attribute(codelQuantum, []byte{1, 2, 3, 4})
	limit := attribute(2, []byte{5, 0, 0, 0})
	options := bytes.Join([][]byte{limit, quantum}, nil)
	for _, test := range []struct {
		q    Qdisc
		want string
	}{
		{Qdisc{Kind: kindFQCodel, Handle: 0xabcd << 16, Parent: 0xffffffff, Options: options}, "qdisc fq_codel abcd: parent root options 08000200050000000800060001020304"},
		{Qdisc{Kind: kindFQCodel, Parent: 0x00010002, Options: options}, "qdisc fq_codel 0: parent 1:2 options 0800020005000000"},
		{Qdisc{Kind: "htb", Handle: 1 << 16, Parent: 0xffffffff, Options: options}, "qdisc htb 1: parent root"},
	} {
		if got := test.q.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

func TestMalformedAttributesEndTheList(t *testing.T) {
	good := attribute(7, []byte("abc"))
	for _, tail := range [][]byte{{1}, {4, 0, 1}, {3, 0, 1, 0}, {0, 0, 1, 0}, {200, 0, 1, 0, 1}} {
		got := parse(append(bytes.Clone(good), tail...))
		if len(got) != 1 || !strings.HasPrefix(string(got[0].value), "abc") {
			t.Errorf("%v: %v", tail, got)
		}
	}
}

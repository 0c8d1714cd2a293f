//go:build linux

package main

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is a time in these tests: milliseconds after some moment.
func at(ms int64) time.Time { return time.UnixMilli(1_700_000_000_000 + ms) }

func asked(start, took int64, failed bool) request {
	return request{at(start).UnixNano(), took * int64(time.Millisecond), failed}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{nil, 95, 0},
		{[]time.Duration{7}, 50, 7},
		{[]time.Duration{7}, 100, 7},
		{[]time.Duration{1, 2}, 50, 1},
		{[]time.Duration{1, 2}, 51, 2},
		{[]time.Duration{1, 2, 3}, 50, 2},
		{hundred, 50, 50},
		{hundred, 95, 95},
		{hundred, 100, 100},
		{hundred[:20], 95, 19},
	} {
		if got := percentile(test.sorted, test.p); got != test.want {
			t.Errorf("percentile %d of %d values: got %d, want %d", test.p, len(test.sorted), got, test.want)
		}
	}
}

func TestRequestBelongsToTheTimeInWhichItBegan(t *testing.T) {
	var r record
	r.add(report{At: at(3000).UnixNano(), Requests: []request{
		asked(999, 5, false),
		asked(1000, 10, false),
		// Its answer comes after the time.
		asked(1999, 2000, true),
		asked(2000, 1, false),
	}})
	got := r.between(at(1000), at(2000))
	want := summary{requests: 2, errors: 1, p50: 10 * time.Millisecond, p95: 2 * time.Second, max: 2 * time.Second, rate: 2}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(summary{})); diff != "" {
		t.Errorf("between (-want +got):\n%s", diff)
	}
	if got := r.lately(at(3000), at(4000)).requests; got != 1 {
		t.Errorf("lately: got %d requests that ended, want 1", got)
	}
}

func TestRetransmissionsOfATime(t *testing.T) {
	var r record
	for _, c := range []struct {
		ms    int64
		count uint64
	}{{100, 0}, {200, 3}, {300, 3}, {400, 10}} {
		r.add(report{At: at(c.ms).UnixNano(), Retransmitted: c.count})
	}
	for _, test := range []struct {
		from, to int64
		want     uint64
	}{
		{0, 50, 0},
		{0, 1000, 10},
		{100, 200, 3},
		{200, 300, 0},
		{150, 250, 3},
		{399, 400, 7},
		{400, 500, 0},
	} {
		if got := r.between(at(test.from), at(test.to)).retransmitted; got != test.want {
			t.Errorf("from %d to %d: got %d, want %d", test.from, test.to, got, test.want)
		}
	}
	var sum uint64
	for _, c := range r.columns(at(0), 70*time.Millisecond, 10) {
		sum += c.retransmitted
	}
	if sum != 10 {
		t.Errorf("columns lose some: got %d in all, want 10", sum)
	}
}

func TestReportsAreFollowedToTheEnd(t *testing.T) {
	var r record
	r.follow(bufio.NewScanner(strings.NewReader(
		`{"at":1,"retransmitted":2,"requests":[{"start":1,"took":5,"failed":true}]}` + "\n" +
			`{"at":2,"retransmitted":4,"requests":[{"start":3,"took":5}]}` + "\n" +
			`{"at":3,"retr`)))
	if !r.answered() || len(r.requests) != 2 || len(r.counts) != 2 {
		t.Errorf("got %+v %+v", r.requests, r.counts)
	}
}

func TestAnsweredNeedsASuccess(t *testing.T) {
	var r record
	r.add(report{Requests: []request{asked(0, 1, true)}})
	if r.answered() {
		t.Error("a failed request is taken for an answer")
	}
}

func TestWell(t *testing.T) {
	for _, test := range []struct {
		summary
		want bool
	}{
		{summary{requests: 100}, true},
		{summary{requests: 100, errors: 2, retransmitted: 2}, true},
		{summary{requests: 100, errors: 3}, false},
		{summary{requests: 100, retransmitted: 3}, false},
		{summary{}, false},
	} {
		if got := test.well(); got != test.want {
			t.Errorf("%d requests, %d errors, %d retransmitted: got %v", test.requests, test.errors, test.retransmitted, got)
		}
	}
}

func TestParseRetransmitted(t *testing.T) {
	const snmp = "Ip: Forwarding DefaultTTL\nIp: 1 64\n" +
		"Tcp: RtoAlgorithm MaxConn InSegs OutSegs RetransSegs InErrs\nTcp: 1 -1 10 20 17 0\n" +
		"UdpLite: InDatagrams\nUdpLite: 0\n"
	got, err := parseRetransmitted(snmp)
	if err != nil || got != 17 {
		t.Errorf("got %d, %v; want 17", got, err)
	}
	for _, bad := range []string{"", "Tcp: InSegs RetransSegs\n", "Tcp: InSegs RetransSegs\nTcp: 1\n", "Tcp: InSegs\nTcp: 1\n"} {
		if _, err := parseRetransmitted(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestRetransmittedOfThisProcess(t *testing.T) {
	if _, err := retransmitted(1); err != nil {
		t.Error(err)
	}
}

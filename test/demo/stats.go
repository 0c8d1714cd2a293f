//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// record is what a client has reported.
type record struct {
	mu       sync.Mutex
	requests []request
	// counts are the reports' retransmissions, in the order of time.
	counts []count
}

// count is how many segments were retransmitted up to a time (nanoseconds since
// 1970).
type count struct {
	at            int64
	retransmitted uint64
}

// follow takes a client's reports until its output ends.
func (r *record) follow(lines *bufio.Scanner) {
	// A report after a long stall of the machine is long.
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var one report
		if json.Unmarshal(lines.Bytes(), &one) == nil {
			r.add(one)
		}
	}
}

func (r *record) add(one report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, one.Requests...)
	r.counts = append(r.counts, count{one.At, one.Retransmitted})
}

// summary is what a client felt in some time.
type summary struct {
	requests, errors int
	// retransmitted segments.
	retransmitted uint64
	// Latencies of all requests; one that failed counts with the time until then.
	p50, p95, max time.Duration
	// rate is requests per second.
	rate float64
}

func (s summary) String() string {
	return fmt.Sprintf("%3.0f requests/s   p95 %7s   %3d failed   %3d retransmitted",
		s.rate, latency(s.p95), s.errors, s.retransmitted)
}

// between sums up the requests that began in [from, to): a request belongs to
// the time in which it was sent, whenever its answer came.
func (r *record) between(from, to time.Time) summary {
	return r.sum(from, to, func(one request) int64 { return one.Start })
}

// lately sums up the requests that ended in [from, to), for a live view:
// those that are under way are not known yet.
func (r *record) lately(from, to time.Time) summary {
	return r.sum(from, to, func(one request) int64 { return one.Start + one.Took })
}

func (r *record) sum(from, to time.Time, when func(request) int64) summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s summary
	var took []time.Duration
	for _, one := range r.requests {
		if t := when(one); t < from.UnixNano() || t >= to.UnixNano() {
			continue
		}
		s.requests++
		if one.Failed {
			s.errors++
		}
		took = append(took, time.Duration(one.Took))
	}
	slices.Sort(took)
	s.p50, s.p95, s.max = percentile(took, 50), percentile(took, 95), percentile(took, 100)
	s.retransmitted = r.retransmittedAt(to) - r.retransmittedAt(from)
	if span := to.Sub(from); span > 0 {
		s.rate = float64(s.requests) / span.Seconds()
	}
	return s
}

// retransmittedAt is the last count at or before t.
func (r *record) retransmittedAt(t time.Time) uint64 {
	next := sort.Search(len(r.counts), func(i int) bool { return r.counts[i].at > t.UnixNano() })
	if next == 0 {
		return 0
	}
	return r.counts[next-1].retransmitted
}

// answered tells whether some request has succeeded.
func (r *record) answered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.requests, func(one request) bool { return !one.Failed })
}

// columns sums up one column of a chart after the other, each as wide as step.
func (r *record) columns(from time.Time, step time.Duration, n int) []summary {
	out := make([]summary, n)
	for i := range out {
		start := from.Add(time.Duration(i) * step)
		out[i] = r.between(start, start.Add(step))
	}
	return out
}

// percentile is the smallest value that at least p percent of the sorted values
// don't exceed (nearest rank); 0 for no values.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return sorted[min(max(rank, 1), len(sorted))-1]
}

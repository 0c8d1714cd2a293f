//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// conclude shows what the demo has checked, charts and a table. It returns an
// error when a check is not met.
func (d *demo) conclude() error {
	d.say("%s", d.bold("4. What the demo checked itself"))
	var failed []string
	for _, c := range d.checks() {
		mark := d.good("     ok   ")
		if !c.met {
			mark = d.bad("     BAD  ")
			failed = append(failed, c.what)
		}
		d.say("%s%s", mark, c.what)
		d.lines("            ", c.detail)
	}
	d.say("")

	fault := d.result.Faults[0]
	d.charts(fault.StartTime, fault.EndTime)
	d.say("")
	d.lines(" ", table([]row{
		{who: roleClient, when: "before", summary: d.clientFelt[0]},
		{when: "during", summary: d.clientFelt[1], paint: d.bad},
		{when: "after", summary: d.clientFelt[2]},
		{who: roleBystander, when: "before", summary: d.bystanderFelt[0]},
		{when: "during", summary: d.bystanderFelt[1]},
		{when: "after", summary: d.bystanderFelt[2]},
	}, d.bold))
	if len(failed) > 0 {
		return fmt.Errorf("not as it should be: %s", strings.Join(failed, "; "))
	}
	return nil
}

// chartBefore is how much of the time before the fault is drawn.
const chartBefore = 3 * time.Second

// A column of a chart stands for columnLeast, or for more by steps of
// columnStep, so that chartColumns are enough.
const (
	chartColumns = 70
	columnLeast  = 250 * time.Millisecond
	columnStep   = 50 * time.Millisecond
)

// columnOf is the time that a column stands for in charts of span.
func columnOf(span time.Duration) time.Duration {
	steps := (span + chartColumns*columnStep - 1) / (chartColumns * columnStep)
	return max(steps*columnStep, columnLeast)
}

// charts draw what the client felt over time.
func (d *demo) charts(start, end time.Time) {
	column := columnOf(chartBefore + end.Sub(start) + settle + again)
	before := int(chartBefore / column)
	during := int((end.Sub(start) + column/2) / column)
	behind := int((settle + again) / column)
	columns := d.client.columns(start.Add(-time.Duration(before)*column), column, before+during+behind)
	paint := func(i int, s string) string {
		if i >= before && i < before+during {
			return d.bad(s)
		}
		return d.good(s)
	}
	indent := strings.Repeat(" ", labelWidth)
	for _, c := range []struct {
		title string
		label func(float64) string
		value func(summary) float64
	}{
		{"requests per second", plainLabel, func(s summary) float64 { return s.rate }},
		{"latency, 95th percentile", latencyLabel, func(s summary) float64 { return inMilliseconds(s.p95) }},
		{fmt.Sprintf("TCP segments retransmitted per %d ms", column.Milliseconds()), plainLabel, func(s summary) float64 { return float64(s.retransmitted) }},
	} {
		values := make([]float64, len(columns))
		for i, s := range columns {
			values[i] = c.value(s)
		}
		d.say("%s", indent+c.title)
		d.lines("", d.chart(values, 3, c.label, paint))
	}
	d.lines("", d.timeline([]section{{"before", before}, {"30 % loss", during}, {"after", behind}}))
}

// check is something that has to be true, and what was seen.
type check struct {
	met    bool
	what   string
	detail []string
}

// checks compares what was felt with what should have been.
func (d *demo) checks() []check {
	before, during, after := d.clientFelt[0], d.clientFelt[1], d.clientFelt[2]
	neighbour := d.bystanderFelt[1]
	fault := d.result.Faults[0]
	return []check{
		{
			met:  before.well() && d.bystanderFelt[0].well(),
			what: "both were well before: " + before.loss(),
		},
		{
			met:  during.retransmitted > before.retransmitted && !during.well(),
			what: "the client lost packets: " + during.loss(),
			detail: []string{
				fmt.Sprintf("faultline dropped %s of %s packets, by %s; TCP sends again what", fault.Injected, fault.Matched, fault.Mechanism),
				fmt.Sprintf("is not acknowledged (TcpRetransSegs of this network: %d more)", d.namespaceAfter-d.namespaceBefore),
			},
		},
		{
			met:  neighbour.well(),
			what: "the bystander did not: " + neighbour.loss(),
			// An answer that is late for long is asked for again.
			detail: only(neighbour.retransmitted > 0 || neighbour.errors > 0, "(so few come of a machine that is busy, not of the fault)"),
		},
		{
			met:  after.well(),
			what: "the client is well again: " + after.loss(),
		},
		{
			met:  d.result.Verdict == "PASSED" && d.result.Rollback == "VERIFIED",
			what: fmt.Sprintf("faultline ended with verdict %s, rollback %s", d.result.Verdict, d.result.Rollback),
		},
		{
			met: len(d.attachedDuring) > len(d.attachedBefore) && slices.Equal(d.attachedAfter, d.attachedBefore),
			what: fmt.Sprintf("eBPF programs, filters and qdiscs here: %d before, %d during, %d after",
				len(d.attachedBefore), len(d.attachedDuring), len(d.attachedAfter)),
			detail: append(prefixed("during: ", d.attachedDuring), prefixed("after: ", d.attachedAfter)...),
		},
		{
			// Its exit status has said that nothing is left.
			met:  true,
			what: "faultline status: " + d.status,
		},
	}
}

// well tells whether a client lost nothing to the fault: at most one request in
// fifty failed or had a segment sent again, which happens by itself where a
// busy machine lets an answer wait. Of 30 % loss it would be one in three. How
// long answers take depends on the machine, and is shown and not judged.
func (s summary) well() bool {
	return s.requests > 0 && 50*s.errors <= s.requests && 50*s.retransmitted <= uint64(s.requests)
}

// loss says what a client has lost.
func (s summary) loss() string {
	return fmt.Sprintf("%d retransmissions, %d failed, p95 %s", s.retransmitted, s.errors, latency(s.p95))
}

// only is a line if it has to be said.
func only(needed bool, line string) []string {
	if needed {
		return []string{line}
	}
	return nil
}

func prefixed(prefix string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = prefix + l
	}
	return out
}

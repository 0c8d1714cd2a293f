//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// glyphs are what charts are drawn with.
type glyphs struct {
	// levels are the fillings of a cell, from nothing to full.
	levels []rune
	axis   string
	corner string
	tee    string
	line   string
}

var (
	blocks = glyphs{levels: []rune(" ▁▂▃▄▅▆▇█"), axis: "│", corner: "└", tee: "┴", line: "─"}
	ascii  = glyphs{levels: []rune(" .:|#"), axis: "|", corner: "+", tee: "+", line: "-"}
)

// labelWidth is the room for the numbers at the left of a chart.
const labelWidth = 8

// chart draws values as columns, rows high, with the top of the scale at the
// left. paint colours a column; it may be nil. A value above zero is never
// drawn as nothing.
func (g glyphs) chart(values []float64, rows int, label func(float64) string, paint func(column int, s string) string) []string {
	if paint == nil {
		paint = func(_ int, s string) string { return s }
	}
	steps := len(g.levels) - 1
	top := niceTop(values)
	lines := make([]string, rows)
	for row := range lines {
		text := ""
		switch row {
		case 0:
			text = label(top)
		case rows - 1:
			text = label(0)
		}
		var b strings.Builder
		b.WriteString(strings.Repeat(" ", max(labelWidth-1-utf8.RuneCountInString(text), 0)) + text + " " + g.axis)
		below := (rows - 1 - row) * steps
		for column, v := range values {
			level := int(math.Round(v / top * float64(rows*steps)))
			if v > 0 {
				level = max(level, 1)
			}
			filled := g.levels[min(max(level-below, 0), steps)]
			if filled == ' ' {
				b.WriteByte(' ')
				continue
			}
			b.WriteString(paint(column, string(filled)))
		}
		lines[row] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// section is a part of a chart's time axis.
type section struct {
	name    string
	columns int
}

// timeline is the axis below charts: a line, and the names of the sections each
// below its own columns.
func (g glyphs) timeline(sections []section) []string {
	indent := strings.Repeat(" ", labelWidth)
	axis, names := indent+g.corner, indent+" "
	for i, s := range sections {
		line := strings.Repeat(g.line, max(s.columns-1, 0))
		if i < len(sections)-1 {
			line += g.tee
		} else {
			line += g.line
		}
		axis += line
		name := []rune(s.name)
		name = name[:min(len(name), max(s.columns-1, 0))]
		names += string(name) + strings.Repeat(" ", s.columns-len(name))
	}
	return []string{axis, strings.TrimRight(names, " ")}
}

// niceTop is the smallest of 1, 2, 2.5, 3, 4, 5 times a power of ten that no value
// exceeds; 1 when all are zero.
func niceTop(values []float64) float64 {
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	if most <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(most)))
	for _, factor := range []float64{1, 2, 2.5, 3, 4, 5} {
		if most <= factor*power*(1+1e-9) {
			return factor * power
		}
	}
	return 10 * power
}

// inMilliseconds is a duration as a value of a chart, latencyLabel its label.
func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func latencyLabel(ms float64) string {
	switch {
	case ms == 0:
		return "0"
	case ms >= 1000:
		return fmt.Sprintf("%g s", ms/1000)
	default:
		return fmt.Sprintf("%g ms", ms)
	}
}

func plainLabel(v float64) string { return fmt.Sprintf("%g", v) }

// latency is a duration for people: two digits that count.
func latency(d time.Duration) string {
	ms := inMilliseconds(d)
	switch {
	case d == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	default:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
}

// row is a line of the table.
type row struct {
	who, when string
	summary
	paint func(string) string
}

// table shows what each client felt in each phase. It is 77 columns wide.
func table(rows []row, head func(string) string) []string {
	lines := []string{head(fmt.Sprintf("%-9s %-6s %8s %5s %7s %13s %7s %7s %7s",
		"", "", "requests", "/s", "failed", "retransmitted", "p50", "p95", "max"))}
	for _, r := range rows {
		line := fmt.Sprintf("%-9s %-6s %8d %5.0f %7d %13d %7s %7s %7s",
			r.who, r.when, r.requests, r.rate, r.errors, r.retransmitted, latency(r.p50), latency(r.p95), latency(r.max))
		if r.paint != nil {
			line = r.paint(line)
		}
		lines = append(lines, line)
	}
	return lines
}

package bench

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// WriteTable prints a report as a Markdown table with aligned columns: the
// median of each figure, and its quartiles behind it. What the
// kernel lacks is listed below.
func WriteTable(w io.Writer, r Report) error {
	lines := [][]string{{"variant"}}
	for _, c := range r.Columns {
		lines[0] = append(lines[0], c.Head)
	}
	var missing []string
	for _, row := range r.Rows {
		if row.Skipped != "" {
			missing = append(missing, fmt.Sprintf("not on this kernel: %s (%s)\n", row.Name, row.Skipped))
			continue
		}
		line := []string{row.Name}
		for _, c := range r.Columns {
			line = append(line, cell(row, c))
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, text := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	if len(lines) == 1 {
		lines = nil // a head without a body
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s, Linux %s, %d CPUs, %d rounds; median (quartiles)\n\n", r.Title, r.Kernel, r.Release, r.CPUs, r.Rounds)
	for i, line := range lines {
		b.WriteString("|")
		for j, text := range line {
			fmt.Fprintf(&b, " %-*s |", widths[j], text)
		}
		b.WriteString("\n")
		if i == 0 {
			b.WriteString("|")
			for _, width := range widths {
				b.WriteString(strings.Repeat("-", width+2) + "|")
			}
			b.WriteString("\n")
		}
	}
	if len(missing) > 0 && len(lines) > 0 {
		b.WriteString("\n")
	}
	b.WriteString(strings.Join(missing, ""))
	_, err := io.WriteString(w, b.String())
	return err
}

func cell(row Row, c Column) string {
	value, ok := row.Values[c.Key]
	if !ok {
		return ""
	}
	if value.Low == value.High {
		return fmt.Sprintf("%.*f", c.Digits, value.Median)
	}
	return fmt.Sprintf("%.*f (%.*f..%.*f)", c.Digits, value.Median, c.Digits, value.Low, c.Digits, value.High)
}

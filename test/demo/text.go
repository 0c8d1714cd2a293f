//go:build linux

package main

import "strings"

// indented shows what is written to it, line by line, on a screen.
type indented struct {
	screen *screen
	rest   string
}

func (w *indented) Write(b []byte) (int, error) {
	w.rest += string(b)
	for {
		line, rest, whole := strings.Cut(w.rest, "\n")
		if !whole {
			return len(b), nil
		}
		w.rest = rest
		w.screen.lines("", wrapped("     ", line, 80))
	}
}

// wrapped breaks a line between words, so that none is wider than width where
// the words allow that. The parts after the first are indented further.
func wrapped(indent, line string, width int) []string {
	var out []string
	current := indent
	empty := true
	for word := range strings.FieldsSeq(line) {
		if !empty && len(current)+1+len(word) > width {
			out = append(out, current)
			current, empty = indent+"  ", true
		}
		if !empty {
			current += " "
		}
		current += word
		empty = false
	}
	return append(out, current)
}

// cut cuts a line that is wider than width.
func cut(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:width-3]) + "..."
	}
	return line
}

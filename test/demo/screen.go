//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is where the demo is seen: a terminal with a line at its foot that is
// drawn again and again, or a pipe with nothing but lasting lines.
type screen struct {
	glyphs
	mu     sync.Mutex
	out    io.Writer
	live   bool
	colour bool
	// foot is the line that is drawn now.
	foot string
	// width of the terminal in columns; 0 when it is none.
	width func() int
}

// newScreen looks at what out is, and what the environment says about it.
func newScreen(out *os.File, getenv func(string) string) *screen {
	s := &screen{out: out, glyphs: ascii, width: func() int { return 0 }}
	if unicodeLocale(getenv) {
		s.glyphs = blocks
	}
	if fd := int(out.Fd()); term.IsTerminal(fd) && getenv("TERM") != "dumb" {
		s.live = true
		s.colour = getenv("NO_COLOR") == ""
		s.width = func() int {
			width, _, err := term.GetSize(fd)
			if err != nil {
				return 0
			}
			return width
		}
	}
	return s
}

// unicodeLocale follows locale(7): the first variable that is set counts.
func unicodeLocale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(getenv(name)); value != "" {
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return false
}

// say writes a lasting line, above the live one.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := format
	if len(args) > 0 {
		line = fmt.Sprintf(format, args...)
	}
	if s.foot == "" {
		fmt.Fprintln(s.out, line)
		return
	}
	fmt.Fprintf(s.out, "\r\x1b[K%s\n%s", line, s.foot)
}

// lines writes lasting lines with an indent.
func (s *screen) lines(indent string, lines []string) {
	for _, line := range lines {
		s.say("%s", strings.TrimRight(indent+line, " "))
	}
}

// show draws the live line; "" takes it away. Elsewhere than on a terminal
// there is none.
func (s *screen) show(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live || line == s.foot {
		return
	}
	// A line that wraps could not be drawn over.
	if width := s.width(); width > 1 && utf8.RuneCountInString(line) > width-1 {
		line = string([]rune(line)[:width-1])
	}
	fmt.Fprint(s.out, "\r\x1b[K"+line)
	s.foot = line
}

func (s *screen) paint(code, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) bold(text string) string  { return s.paint("1", text) }
func (s *screen) good(text string) string  { return s.paint("32", text) }
func (s *screen) bad(text string) string   { return s.paint("31", text) }
func (s *screen) faint(text string) string { return s.paint("2", text) }

package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/api/document"
)

// format is the value of --output.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) String() string { return string(*f) }

func (f *format) Type() string { return "format" }

func (f *format) Set(s string) error {
	switch format(s) {
	case formatText, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("wanted text or json")
}

// outputFlag gives a command --output.
func outputFlag(cmd *cobra.Command) *format {
	f := formatText
	cmd.Flags().VarP(&f, "output", "o", "how the answer is printed: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// print writes the answer to stdout: the message as JSON, or what text writes.
// It goes out in one piece, so that a reader never sees half of it.
func (a *app) print(f format, m proto.Message, text func(*page)) error {
	var b []byte
	if f == formatJSON {
		out, err := document.MarshalJSON(m)
		if err != nil {
			return err
		}
		b = out
	} else {
		p := a.page(a.stdout)
		text(p)
		b = p.Bytes()
	}
	if _, err := a.stdout.Write(b); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// style puts meaning into colour where there is a terminal for it. The words
// say the same without.
type style struct{ on bool }

func (a *app) style(w io.Writer) style {
	_, isTerminal := a.terminal(w)
	return style{isTerminal && !a.noColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"}
}

func (s style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) good(text string) string  { return s.paint("32", text) }
func (s style) bad(text string) string   { return s.paint("31", text) }
func (s style) warn(text string) string  { return s.paint("33", text) }
func (s style) bold(text string) string  { return s.paint("1", text) }
func (s style) faint(text string) string { return s.paint("2", text) }

// page collects the text of an answer.
type page struct {
	bytes.Buffer
	style
	// width of the terminal in columns; 0 for no limit.
	width int
}

func (a *app) page(w io.Writer) *page {
	s, _ := a.terminal(w)
	return &page{style: a.style(w), width: s.width}
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// cell is a piece of a table: a text and how it is painted.
type cell struct {
	text  string
	paint func(string) string
	// right-aligned, for numbers
	right bool
}

func text(s string) cell { return cell{text: s} }

func number[N uint64 | int](n N) cell { return cell{text: thousands(uint64(n)), right: true} }

// table writes rows below bold heads. The last column takes what is left of a
// terminal's width and is broken between words; the others are never broken.
func (p *page) table(heads []string, rows [][]cell) {
	const gap = 2
	widths := make([]int, len(heads))
	for i, h := range heads {
		widths[i] = utf8.RuneCountInString(h)
	}
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	last, before := len(heads)-1, 0
	for _, w := range widths[:last] {
		before += w + gap
	}
	room := 0
	if p.width > 0 {
		room = max(p.width-before, 20)
	}
	write := func(row []cell) {
		for i, c := range row[:last] {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if c.right {
				p.WriteString(space + paint(c) + strings.Repeat(" ", gap))
				continue
			}
			p.WriteString(paint(c) + space + strings.Repeat(" ", gap))
		}
		end := row[last]
		for i, part := range wrap(end.text, room) {
			if i > 0 {
				p.WriteString(strings.Repeat(" ", before))
			}
			if end.right {
				p.WriteString(strings.Repeat(" ", max(widths[last]-utf8.RuneCountInString(part), 0)))
			}
			p.WriteString(paint(cell{part, end.paint, false}) + "\n")
		}
	}
	head := make([]cell, len(heads))
	for i, h := range heads {
		head[i] = cell{h, p.bold, len(rows) > 0 && rows[0][i].right}
	}
	write(head)
	for _, row := range rows {
		write(row)
	}
	p.trimLines()
}

// trimLines takes the blanks from the ends of lines.
func (p *page) trimLines() {
	lines := strings.Split(p.String(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	p.Reset()
	p.WriteString(strings.Join(lines, "\n"))
}

func paint(c cell) string {
	if c.paint == nil {
		return c.text
	}
	return c.paint(c.text)
}

// wrap breaks text between words into lines of at most width columns; 0 for no
// limit. A word that is wider, such as a path, is broken where it has to be.
// There is always one line.
func wrap(text string, width int) []string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		runes := []rune(word)
		for len(runes) > width {
			lines = append(lines, string(runes[:width]))
			runes = runes[width:]
		}
		line = string(runes)
	}
	return append(lines, line)
}

// paragraph writes wrapped text with an indent.
func (p *page) paragraph(indent, text string) {
	room := 0
	if p.width > 0 {
		room = max(p.width-len(indent), 20)
	}
	for _, l := range wrap(text, room) {
		p.line("%s%s", indent, l)
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// talk is stderr. A live view puts itself below what others write.
type talk struct {
	mu   sync.Mutex
	out  io.Writer
	view *view
}

func (t *talk) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view == nil {
		return t.out.Write(b)
	}
	t.view.hide()
	n, err := t.out.Write(b)
	t.view.redraw()
	return n, err
}

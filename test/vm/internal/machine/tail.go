package machine

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// Tail keeps the end of what is written to it.
type Tail struct {
	mu   sync.Mutex
	size int
	data []byte
}

// NewTail returns a Tail of at most size bytes.
func NewTail(size int) *Tail { return &Tail{size: size} }

func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - t.size; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

var escapes = regexp.MustCompile(`\x1b(\[[0-9;?=]*[a-zA-Z]|c)`)

// Lines returns the last n lines, without the terminal sequences of the firmware.
func (t *Tail) Lines(n int) []string {
	t.mu.Lock()
	text := escapes.ReplaceAllString(string(bytes.ReplaceAll(t.data, []byte("\r"), nil)), "")
	t.mu.Unlock()
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-n):]
}

package glob

import (
	"fmt"
	"strings"
)

// Sizes of bpf/syscalls/path.h.
const (
	textWords = 4
	// TextMax is how many characters a pattern of a text may have, of those that are no *.
	TextMax = textWords*wordBits - 1
)

type bits [textWords]uint64

func (b *bits) set(i int) { b[i/wordBits] |= 1 << (i % wordBits) }

// Text is struct fl_text: what a path is matched with as a text, character by character,
// in the way in which it was written. A bit stands before each character of the pattern,
// and one behind the last.
type Text struct {
	// Fit are the bits that a character takes a match to.
	Fit [256]bits
	// Stay are those that stay set at a character: before the one that follows a *, and
	// at a **.
	Stay [256]bits
	// Skip are those at a **, which may stand for nothing: the next one is set with them.
	Skip bits
	// Begin are those that are set at first, End those with which a text matches.
	Begin, End bits
}

// NewText compiles a pattern: * stands for anything without a /, ? for a character, [a-z]
// for one of some, a component ** for any number of components. The error says what is
// wrong with it.
func NewText(pattern string) (*Text, error) {
	t := &Text{}
	t.Begin.set(0)
	at := 0
	for rest := pattern; rest != ""; {
		switch {
		case rest == "**":
			t.stay(at, true)
			t.End.set(at)
			return t, nil
		case strings.HasPrefix(rest, "**/"):
			// To the / that ends the last of its components.
			t.stay(at, true)
			t.Skip.set(at)
			if at == 0 {
				t.Begin.set(1)
			}
			rest = rest[len("**"):]
		case rest == "/**":
			t.End.set(at)
		case rest[0] == '*':
			t.stay(at, false)
			rest = rest[1:]
			continue
		}
		set, more, err := Next(rest)
		if err != nil {
			return nil, fmt.Errorf("%q is not a pattern: %w", pattern, err)
		}
		if at++; at > TextMax {
			return nil, fmt.Errorf("it has more than %d characters; shorten it with *", TextMax)
		}
		for c := range t.Fit {
			// Of wildcards none stands for a /.
			if set.Has(byte(c)) && (c != '/' || rest[0] == '/') {
				t.Fit[c].set(at)
			}
		}
		rest = more
	}
	t.End.set(at)
	return t, nil
}

// stay keeps a bit set, whatever comes.
func (t *Text) stay(at int, slashes bool) {
	for c := range t.Stay {
		if c != '/' || slashes {
			t.Stay[c].set(at)
		}
	}
}

// shifted are the bits behind those that are set.
func (b bits) shifted() (next bits) {
	var carry uint64
	for i, word := range b {
		next[i] = word<<1 | carry
		carry = word >> (wordBits - 1)
	}
	return next
}

// Matches is what the programs do.
func (t *Text) Matches(text string) bool {
	active := t.Begin
	for i := range len(text) {
		moved := active.shifted()
		skip := bits{}
		for w := range moved {
			moved[w] &= t.Fit[text[i]][w]
			skip[w] = moved[w] & t.Skip[w]
		}
		skip = skip.shifted()
		for w := range moved {
			active[w] = moved[w] | skip[w] | active[w]&t.Stay[text[i]][w]
		}
	}
	for w := range active {
		if active[w]&t.End[w] != 0 {
			return true
		}
	}
	return false
}

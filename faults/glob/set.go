// Package glob makes patterns of paths into tables, by which programs in the kernel match
// bytes one after the other.
package glob

import (
	"errors"
	"strings"
)

const wordBits = 64

// Set is a set of bytes: those that one character of a pattern stands for.
type Set [256 / wordBits]uint64

func (s *Set) add(c byte) { s[c/wordBits] |= 1 << (c % wordBits) }

// Has tells whether a byte is in it.
func (s Set) Has(c byte) bool { return s[c/wordBits]>>(c%wordBits)&1 == 1 }

func (s *Set) invert() {
	for i := range s {
		s[i] = ^s[i]
	}
}

// Next takes one character of a pattern off, with the syntax of path.Match: what it stands
// for, and the rest. A * is none. An error says what is wrong with the pattern.
func Next(text string) (set Set, rest string, err error) {
	switch text[0] {
	case '?':
		set.invert()
		return set, text[1:], nil
	case '[':
		return bracket(text[1:])
	}
	c, rest, err := escaped(text)
	set.add(c)
	return set, rest, err
}

var errBracket = errors.New("a [ has no end")

// bracket reads what follows a [.
func bracket(text string) (set Set, rest string, err error) {
	text, inverted := strings.CutPrefix(text, "^")
	for first := true; ; first = false {
		if text == "" {
			return set, "", errBracket
		}
		if text[0] == ']' && !first {
			break
		}
		var low, high byte
		if low, text, err = escaped(text); err != nil {
			return set, "", err
		}
		high = low
		if more, isRange := strings.CutPrefix(text, "-"); isRange {
			if high, text, err = escaped(more); err != nil {
				return set, "", err
			}
		}
		for c := int(low); c <= int(high); c++ {
			set.add(byte(c))
		}
	}
	if inverted {
		set.invert()
	}
	return set, text[1:], nil
}

// escaped reads one character, which a backslash may stand before.
func escaped(text string) (c byte, rest string, err error) {
	if text != "" && text[0] == '\\' {
		text = text[1:]
	}
	if text == "" {
		return 0, "", errors.New("it ends within a character")
	}
	return text[0], text[1:], nil
}

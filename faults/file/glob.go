package file

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"faultline.dev/faultline/faults/glob"
)

// Limits of bpf/files/path.h.
const (
	componentsMax = 16
	wordBits      = 64
)

// anyNames is the component that stands for any number of names.
const anyNames = "**"

// split returns the components of an absolute, clean path. Several ** in a row are one.
func split(path string) []string {
	list := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	return slices.CompactFunc(list, func(a, b string) bool { return a == anyNames && b == anyNames })
}

// isLiteral tells whether a component stands for itself.
func isLiteral(component string) bool { return !strings.ContainsAny(component, `*?[\`) }

// literal is the row of components at the beginning that stand for themselves.
func literal(components []string) []string {
	i := slices.IndexFunc(components, func(c string) bool { return !isLiteral(c) })
	if i < 0 {
		return components
	}
	return components[:i]
}

// pattern is struct fl_pattern.
type pattern struct {
	Begin, Stay uint64
	End         [componentsMax]uint8
	Components  uint32
	Any         uint32
}

// characters is struct fl_characters.
type characters struct {
	Fit [256]uint64
	_   uint64
}

// matcher is what the programs match names with, for all components of a pattern.
type matcher struct {
	pattern
	characters
}

// compile makes a matcher.
func compile(components []string) (*matcher, error) {
	if len(components) > componentsMax {
		return nil, fmt.Errorf("%d directories and names follow the part of the path that exists and has no wildcard; at most %d are supported", len(components), componentsMax)
	}
	m := &matcher{pattern: pattern{Components: uint32(len(components))}}
	at := 0
	for i, component := range components {
		if component == anyNames {
			m.Any |= 1 << i
			continue
		}
		var err error
		if at, err = m.add(i, component, at); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// add gives a component its run of bits, from bit at on, and returns the next one.
func (m *matcher) add(i int, component string, at int) (int, error) {
	if at >= wordBits {
		return 0, errTooLong
	}
	m.Begin |= 1 << at
	for rest := component; rest != ""; {
		if rest[0] == '*' {
			m.Stay |= 1 << at
			rest = rest[1:]
			continue
		}
		set, more, err := glob.Next(rest)
		if err != nil {
			return 0, fmt.Errorf("%q is not a pattern: %w", component, err)
		}
		rest = more
		if at++; at >= wordBits {
			return 0, errTooLong
		}
		for c := range m.Fit {
			if set.Has(byte(c)) {
				m.Fit[c] |= 1 << at
			}
		}
	}
	m.End[i] = uint8(at)
	return at + 1, nil
}

var errTooLong = errors.New("more than 63 characters follow the part of the path that exists and has no wildcard; name a longer part, or shorten the rest with *")

// begin is the set of components, one bit each, that a path may stand before when no
// name was met.
func (m *matcher) begin() uint32 { return m.skipAny(1) }

// skipAny adds those that come after a **, which may stand for nothing.
func (m *matcher) skipAny(set uint32) uint32 { return set | set&m.Any<<1 }

// follow goes one name down.
func (m *matcher) follow(set uint32, name string) uint32 {
	active := m.Begin
	for i := range len(name) {
		active = active<<1&m.Fit[name[i]] | active&m.Stay
	}
	next := set & m.Any
	for i := range m.Components {
		if set>>i&1 == 1 && m.Any>>i&1 == 0 && active>>m.End[i]&1 == 1 {
			next |= 1 << (i + 1)
		}
	}
	return m.skipAny(next)
}

// all is the set with which a path matches: nothing of the pattern is left.
func (m *matcher) all() uint32 { return 1 << m.Components }

// matches tells whether names, from where the pattern begins, are matched by it. The
// programs go the other way and come to the same.
func (m *matcher) matches(names []string) bool {
	set := m.begin()
	for _, name := range names {
		set = m.follow(set, name)
	}
	return set&m.all() != 0
}

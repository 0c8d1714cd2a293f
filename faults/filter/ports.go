package filter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// namesPort tells whether port stands in the list by itself; a range that
// happens to contain it does not name it.
func namesPort(texts []string, port uint16) bool {
	return slices.Contains(texts, strconv.Itoa(int(port)))
}

// portSet has one bit for each port, in the layout of the programs' fl_ports.
type portSet [portWords]uint64

func allPorts() *portSet {
	var set portSet
	set.add(0, 65535)
	return &set
}

func (s *portSet) add(first, last uint16) {
	for port := int(first); port <= int(last); port++ {
		s[port>>6] |= 1 << (port & 63)
	}
}

func (s *portSet) remove(other *portSet) {
	for i := range s {
		s[i] &^= other[i]
	}
}

func (s *portSet) empty() bool { return *s == portSet{} }

// disjoint tells whether two sets have no port in common; nil is every port.
func (s *portSet) disjoint(other *portSet) bool {
	if s == nil || other == nil {
		return false
	}
	for i := range s {
		if s[i]&other[i] != 0 {
			return false
		}
	}
	return true
}

func ports(field string, texts []string, report func(string, string, ...any)) *portSet {
	if len(texts) == 0 {
		return nil
	}
	set := &portSet{}
	for i, text := range texts {
		first, last, ok := portRange(text)
		if !ok {
			report(fmt.Sprintf("%s[%d]", field, i), "%q is no port; allowed are numbers from 1 to 65535 and ranges such as \"8000-8999\"", text)
			continue
		}
		set.add(first, last)
	}
	return set
}

func portRange(text string) (first, last uint16, ok bool) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	a, errLow := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	b, errHigh := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	ok = errLow == nil && errHigh == nil && a >= 1 && a <= b
	return uint16(a), uint16(b), ok
}

package fault

import "slices"

// Compare is the Differences of a Watch in which each line stands for a thing
// of its own. ours tells whether a line is of this program's making; it is not
// asked about lines that were there before.
func Compare(before, after []string, ours func(line string) bool) []string {
	var list []string
	for _, line := range without(before, after) {
		list = append(list, "missing: "+line)
	}
	for _, line := range without(after, before) {
		if ours(line) {
			list = append(list, "left behind: "+line)
		}
	}
	return list
}

// without returns the lines of a that b has not, each as often as it is
// missing.
func without(a, b []string) []string {
	rest := slices.Clone(b)
	var list []string
	for _, line := range a {
		if i := slices.Index(rest, line); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		list = append(list, line)
	}
	return list
}

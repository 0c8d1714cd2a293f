package qdisc

import (
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/netns"
)

// What stands behind a line of a qdisc of ours, and of one that no fault uses.
const (
	lineOurs   = " (faultline's)"
	lineUnused = " that no fault uses"
)

// lineNone stands for the root of an interface that is down and has no queue
// until it is up.
const lineNone = "no qdisc at the root until the interface is up"

// Lines are the qdiscs of an interface but for clsact, for a fault.Watch: all
// that the kernel dumps of them but counters. It is called exclusively.
func Lines(ns *netns.Namespace, at netlink.Link) ([]string, error) {
	index := at.Attrs().Index
	found, err := dump(ns, index)
	if err != nil {
		return nil, err
	}
	tree := egressTree(found[index])
	var suffix string
	if len(tree) > 0 && ours(tree[0]) {
		used, err := isUsed(ns, at, tree[0])
		if err != nil {
			return nil, err
		}
		suffix = lineOurs
		if !used {
			suffix += lineUnused
		}
	}
	var lines []string
	if len(tree) == 0 {
		lines = append(lines, lineNone)
	}
	for _, q := range found[index] {
		switch {
		case q.Kind == "clsact":
		case q.Parent == netlink.HANDLE_CLSACT:
			lines = append(lines, q.String())
		default:
			lines = append(lines, q.String()+suffix)
		}
	}
	return lines, nil
}

// isUsed tells whether a fault needs our root.
func isUsed(ns *netns.Namespace, at netlink.Link, root Qdisc) (bool, error) {
	if emulated(root) {
		return steered(ns, at.Attrs().Index)
	}
	users, err := usersOf(ns, at)
	if err != nil {
		return false, err
	}
	return inUse(users, 0)
}

// LeftBehind tells whether a line is of a root of ours that nobody uses any
// more.
func LeftBehind(line string) bool { return strings.HasSuffix(line, lineOurs+lineUnused) }

// Lasting are those of the lines before a fault that have to be there after it.
// What other faults share comes and goes at their own time: their fq
// is none of them, and while they use it what it has replaced is not there.
// What the kernel makes by default is not there while the interface is down.
func Lasting(before, after []string) []string {
	ours := func(line string) bool { return strings.HasSuffix(line, lineOurs) }
	shared := slices.ContainsFunc(after, ours)
	down := slices.Contains(after, lineNone)
	return slices.DeleteFunc(slices.Clone(before), func(line string) bool {
		switch {
		case line == lineNone, ours(line), LeftBehind(line):
			return true
		case !strings.HasPrefix(line, "qdisc ") || strings.HasPrefix(line, "qdisc clsact ") || strings.HasPrefix(line, "qdisc ingress "):
			return false
		case shared:
			return true
		}
		return down && strings.Contains(line, " 0: ")
	})
}

package target

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// member is one match of a target.
type member struct {
	// rel is the path below the mount point: it, and not the full path, goes
	// into the choice, so that the mount point changes nothing.
	rel    string
	cgroup fault.Cgroup
}

// pick takes some of the members and returns them by path. A count above the
// number of members takes all of them; a percentage is rounded up. Every
// member has a rank of its own by seed and path and the lowest ranks are
// taken, so a member that comes or goes moves at most one other.
func pick(members []member, p *v1.Pick, seed uint64) ([]fault.Cgroup, error) {
	byPath := func(a, b member) int { return strings.Compare(a.rel, b.rel) }
	slices.SortFunc(members, byPath)
	members = slices.CompactFunc(members, func(a, b member) bool { return a.cgroup.ID == b.cgroup.ID })

	n := len(members)
	switch x := p.GetPick().(type) {
	case *v1.Pick_Count:
		if x.Count == 0 {
			return nil, tag(ErrInvalid, fmt.Errorf("pick.count is 0: it must be at least 1"))
		}
		n = min(n, int(x.Count))
	case *v1.Pick_Percent:
		if !(x.Percent > 0 && x.Percent <= 100) {
			return nil, tag(ErrInvalid, fmt.Errorf("pick.percent is %v: it must be above 0 and at most 100", x.Percent))
		}
		// Dividing last keeps whole results whole: 28 % of 25 is 7.
		n = min(n, int(math.Ceil(float64(n)*x.Percent/100)))
	}
	if n < len(members) {
		slices.SortFunc(members, func(a, b member) int {
			x, y := rank(a.rel, seed), rank(b.rel, seed)
			return bytes.Compare(x[:], y[:])
		})
		members = members[:n]
		slices.SortFunc(members, byPath)
	}
	out := make([]fault.Cgroup, 0, n)
	for _, m := range members {
		out = append(out, m.cgroup)
	}
	return out, nil
}

func rank(rel string, seed uint64) [sha256.Size]byte {
	return sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, seed), rel...))
}

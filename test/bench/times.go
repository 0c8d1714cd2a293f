package bench

// Outage is the time in which something did not get through: from the first
// that did not to the last, in nanoseconds of the clock of what was sent.
type Outage struct{ First, Last int64 }

// LongestLoss returns the outage of the longest row of packets that did not
// arrive. sent are the times at which packets left, arrived tells whether the
// i-th of them was received. ok is false when all were.
func LongestLoss(sent []int64, arrived func(i int) bool) (o Outage, ok bool) {
	best, row := 0, 0
	for i := range sent {
		if arrived(i) {
			row = 0
			continue
		}
		if row++; row > best {
			best = row
			o = Outage{sent[i-row+1], sent[i]}
		}
	}
	return o, best > 0
}

// LongestPause returns the outage of the longest gap between two packets of a
// sender that sends every period (ns) while it runs: from when it should have
// sent the first to the moment before it sent again.
func LongestPause(sent []int64, period int64) (o Outage, ok bool) {
	longest := period
	for i := 1; i < len(sent); i++ {
		if gap := sent[i] - sent[i-1]; gap > longest {
			longest = gap
			o, ok = Outage{sent[i-1] + period, sent[i]}, true
		}
	}
	return o, ok
}

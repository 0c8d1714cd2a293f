package qdisc

import (
	"encoding/binary"
	"slices"
)

// Attributes of fq_codel (enum of TCA_FQ_CODEL_* in linux/pkt_sched.h).
const (
	codelTarget      = 1
	codelInterval    = 3
	codelQuantum     = 6
	codelCEThreshold = 7
)

// again are the options that, given to the kernel, are dumped as those that it
// had dumped before.
//
// It is not enough to give them back. fq_codel keeps times in units of 1024 ns
// and is told them in microseconds: 5000 us are kept as 4882 units and dumped as
// 4999 us, which would be kept as 4881.
func again(q Qdisc) []byte {
	if q.Kind != kindFQCodel {
		return q.Options
	}
	var out []byte
	for _, a := range parse(q.Options) {
		value := a.value
		if us, ok := number(value); ok && slices.Contains([]uint16{codelTarget, codelInterval, codelCEThreshold}, a.kind) {
			value = binary.NativeEndian.AppendUint32(nil, codelTime(us))
		}
		out = append(out, attribute(a.kind, value)...)
	}
	return out
}

// codelTime is the time that fq_codel_change keeps so that fq_codel_dump says
// dumped (codel_time_to_us of net/codel.h). There is always one: a unit is more
// than a microsecond.
func codelTime(dumped uint32) uint32 {
	const unit, microsecond = 1024, 1000
	for us := uint64(dumped); us <= uint64(dumped)+1; us++ {
		if us*microsecond/unit*unit/microsecond == uint64(dumped) {
			return uint32(us)
		}
	}
	return dumped
}

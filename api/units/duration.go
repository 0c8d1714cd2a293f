package units

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// ForeverWord is how a document writes a delay that never ends by itself.
const ForeverWord = "forever"

// foreverSeconds is the largest Duration of protobuf, about 10,000 years.
const foreverSeconds = 315_576_000_000

// Forever is the delay that lasts as long as the fault.
func Forever() *durationpb.Duration { return &durationpb.Duration{Seconds: foreverSeconds} }

// IsForever tells whether d stands for "forever".
func IsForever(d *durationpb.Duration) bool {
	return d.GetSeconds() == foreverSeconds && d.GetNanos() == 0
}

// ParseDuration reads a duration as Go writes it: "100ms", "1m30s", "0.5s".
// It needs a unit (ns, us, ms, s, m, h) and is never negative.
func ParseDuration(s string) (time.Duration, error) {
	if len(s) > maxLength {
		return 0, fmt.Errorf("a duration has at most %d characters", maxLength)
	}
	if number, suffix := split(s); number != "" && suffix == "" {
		return 0, fmt.Errorf("a duration needs a unit: write %ss", number)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write numbers with the units ns, us, ms, s, m or h, such as 100ms or 1m30s", s)
	}
	if d < 0 || strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("a duration can't be negative")
	}
	return d, nil
}

// FormatDuration writes d so that ParseDuration gives d again, without units
// that are zero: "1m" and not "1m0s".
func FormatDuration(d time.Duration) string {
	s := d.String()
	// A zero after a unit is a zero of its own and not the end of a number.
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return strings.Replace(s, "µ", "u", 1)
}

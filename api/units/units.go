// Package units reads and writes quantities as a person writes them in an
// experiment document and on the command line: durations ("1m30s"), sizes
// ("4KiB") and bit rates ("10Mbit"). It is exact: what can't be kept exactly is
// an error.
package units

import (
	"fmt"
	"math/big"
	"strings"
)

// maxLength bounds what is parsed; no sensible quantity is longer.
const maxLength = 64

// unit is a suffix and what one of it is worth.
type unit struct {
	name  string
	value uint64
}

const (
	kilo = 1000
	mega = 1000 * kilo
	giga = 1000 * mega
	tera = 1000 * giga

	kibi = 1024
	mebi = 1024 * kibi
	gibi = 1024 * mebi
	tebi = 1024 * gibi
)

// byteUnits, largest first. A bare "k" or "M" is not among them: tc reads it as
// 1024, Kubernetes as 1000.
var byteUnits = []unit{
	{"TiB", tebi},
	{"TB", tera},
	{"GiB", gibi},
	{"GB", giga},
	{"MiB", mebi},
	{"MB", mega},
	{"KiB", kibi},
	{"kB", kilo},
	{"B", 1},
}

// bitUnits, largest first, as in tc(8) but for "bps", which tc reads as bytes
// per second and people as bits: it is refused, "Bps" is bytes without a doubt.
var bitUnits = []unit{
	{"TiBps", 8 * tebi},
	{"TBps", 8 * tera},
	{"Tibit", tebi},
	{"Tbit", tera},
	{"GiBps", 8 * gibi},
	{"GBps", 8 * giga},
	{"Gibit", gibi},
	{"Gbit", giga},
	{"MiBps", 8 * mebi},
	{"MBps", 8 * mega},
	{"Mibit", mebi},
	{"Mbit", mega},
	{"KiBps", 8 * kibi},
	{"kBps", 8 * kilo},
	{"Kibit", kibi},
	{"kbit", kilo},
	{"Bps", 8},
	{"bit", 1},
}

// ByteUnits lists what ParseBytes knows, smallest first.
func ByteUnits() []string { return names(byteUnits) }

// BitRateUnits lists what ParseBitRate knows, smallest first.
func BitRateUnits() []string { return names(bitUnits) }

func names(units []unit) []string {
	list := make([]string, 0, len(units))
	for i := len(units) - 1; i >= 0; i-- {
		list = append(list, units[i].name)
	}
	return list
}

// ParseBytes reads a number of bytes: "4096", "4KiB", "1.5MB". SI prefixes are
// powers of 1000 (kB, MB, GB, TB), IEC prefixes powers of 1024 (KiB, MiB, GiB,
// TiB). The result is a whole number of bytes or an error.
func ParseBytes(s string) (uint64, error) {
	return parse(s, "size", "bytes", byteUnits, func(suffix string) string {
		switch strings.ToLower(suffix) {
		case "k", "m", "g", "t":
			p := strings.ToUpper(suffix)
			si := p
			if p == "K" {
				si = "k"
			}
			return fmt.Sprintf("%q may be 1000 or 1024: write %sB or %siB", suffix, si, p)
		}
		return ""
	})
}

// ParseBitRate reads a rate in bits per second: "1000000", "512kbit", "10Mbit",
// "10Mibit", "1MBps". Units are those of tc(8); SI prefixes are powers of 1000,
// IEC prefixes powers of 1024; Bps is bytes per second.
func ParseBitRate(s string) (uint64, error) {
	return parse(s, "rate", "bits per second", bitUnits, func(suffix string) string {
		// tc reads 10Mbps as ten megabytes per second, nearly everybody else
		// as ten megabits.
		if prefix, ok := strings.CutSuffix(suffix, "bps"); ok {
			return fmt.Sprintf("%q may be bits or bytes per second: write %sbit or %sBps", suffix, prefix, prefix)
		}
		return ""
	})
}

// FormatBytes writes n in the largest unit in which it is a whole number, so
// that ParseBytes gives n again.
func FormatBytes(n uint64) string { return format(n, byteUnits, "B", "") }

// FormatBitRate writes n in the largest unit in which it is a whole number, so
// that ParseBitRate gives n again.
func FormatBitRate(n uint64) string { return format(n, bitUnits, "bit", "Bps") }

// format prefers whole numbers in large units. The unit called plain is left
// out, as the bare number means the same, and so are those that end in skip.
func format(n uint64, units []unit, plain, skip string) string {
	for _, u := range units {
		if u.name == plain || n < u.value || n%u.value != 0 {
			continue
		}
		if skip != "" && strings.HasSuffix(u.name, skip) {
			continue
		}
		return fmt.Sprintf("%d%s", n/u.value, u.name)
	}
	return fmt.Sprintf("%d", n)
}

// parse reads NUMBER[UNIT] with at most one space between. ambiguous explains
// suffixes that are refused on purpose.
func parse(s, what, whole string, units []unit, ambiguous func(string) string) (uint64, error) {
	if len(s) > maxLength {
		return 0, fmt.Errorf("a %s has at most %d characters", what, maxLength)
	}
	number, suffix := split(s)
	if number == "" {
		return 0, fmt.Errorf("%q is not a %s: write a number with a unit, one of %s", s, what, strings.Join(names(units), ", "))
	}
	factor := uint64(1)
	if suffix != "" {
		u, err := find(suffix, units, ambiguous)
		if err != nil {
			return 0, err
		}
		factor = u.value
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("%q is not a number", number)
	}
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).SetUint64(factor)))
	if !r.IsInt() {
		return 0, fmt.Errorf("%q is not a whole number of %s", s, whole)
	}
	if !r.Num().IsUint64() {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return r.Num().Uint64(), nil
}

// split cuts a plain decimal number from its suffix; number is empty when there
// is none.
func split(s string) (number, suffix string) {
	i, dots := 0, 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		if s[i] == '.' {
			dots++
		}
		i++
	}
	number = s[:i]
	if dots > 1 || strings.HasPrefix(number, ".") || strings.HasSuffix(number, ".") {
		return "", ""
	}
	return number, strings.TrimPrefix(s[i:], " ")
}

func find(suffix string, units []unit, ambiguous func(string) string) (unit, error) {
	for _, u := range units {
		if u.name == suffix {
			return u, nil
		}
	}
	if why := ambiguous(suffix); why != "" {
		return unit{}, fmt.Errorf("unknown unit %s", why)
	}
	hint := ""
	for _, u := range units {
		if strings.EqualFold(u.name, suffix) {
			hint = fmt.Sprintf("; did you mean %q?", u.name)
		}
	}
	return unit{}, fmt.Errorf("unknown unit %q%s (units: %s)", suffix, hint, strings.Join(names(units), ", "))
}

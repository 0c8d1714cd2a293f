package units

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]uint64{
		"0": 0, "4096": 4096, "4KiB": 4096, "4 KiB": 4096, "1.5MB": 1500000, "1kB": 1000, "64B": 64,
		"0.5KiB": 512, "16TiB": 16 << 40, "18446744073709551615": 1<<64 - 1, "0.001kB": 1,
	} {
		got, err := ParseBytes(in)
		if err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseBitRate(t *testing.T) {
	for in, want := range map[string]uint64{
		"1000000": 1e6, "512kbit": 512000, "10Mbit": 1e7, "1.5Gbit": 15e8, "10Mibit": 10 << 20,
		"1MBps": 8e6, "1Bps": 8, "2KiBps": 2 * 8192, "9bit": 9,
	} {
		got, err := ParseBitRate(in)
		if err != nil || got != want {
			t.Errorf("ParseBitRate(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	bytes := func(s string) error { _, err := ParseBytes(s); return err }
	rate := func(s string) error { _, err := ParseBitRate(s); return err }
	duration := func(s string) error { _, err := ParseDuration(s); return err }
	for _, c := range []struct {
		parse func(string) error
		in    string
		want  string
	}{
		{bytes, "", "is not a size"},
		{bytes, "KiB", "is not a size"},
		{bytes, "-4KiB", "is not a size"},
		{bytes, "1.2.3kB", "is not a size"},
		{bytes, ".5kB", "is not a size"},
		{bytes, "64k", `"k" may be 1000 or 1024: write kB or KiB`},
		{bytes, "64M", `"M" may be 1000 or 1024: write MB or MiB`},
		{bytes, "4kib", `did you mean "KiB"?`},
		{bytes, "4furlong", "units: B, kB, KiB, MB, MiB, GB, GiB, TB, TiB"},
		{bytes, "0.3B", "not a whole number of bytes"},
		{bytes, "18446744073709551616", "too large"},
		{bytes, "16777216TiB", "too large"},
		{bytes, strings.Repeat("9", 65), "at most 64 characters"},
		{rate, "10Mbps", `"Mbps" may be bits or bytes per second: write Mbit or MBps`},
		{rate, "10bps", "write bit or Bps"},
		{rate, "10mbit", `did you mean "Mbit"?`},
		{rate, "10parsec", "units: bit, Bps, kbit,"},
		{rate, "fast", "is not a rate"},
		{rate, "1e6", `unknown unit "e6"`},
		{duration, "60", "a duration needs a unit: write 60s"},
		{duration, "0", "a duration needs a unit: write 0s"},
		{duration, "1.5", "write 1.5s"},
		{duration, "", "is not a duration"},
		{duration, "1d", "units ns, us, ms, s, m or h"},
		{duration, "-5s", "can't be negative"},
		{duration, "-0s", "can't be negative"},
		{duration, "9999999h", "is not a duration"},
		{duration, "forever", "is not a duration"},
	} {
		err := c.parse(c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q in it", c.in, err, c.want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "1m": time.Minute, "10m": 10 * time.Minute, "1h": time.Hour, "1h30m": 90 * time.Minute,
		"1m30s": 90 * time.Second, "10s": 10 * time.Second, "100ms": 100 * time.Millisecond, "5us": 5 * time.Microsecond,
		"20h": 20 * time.Hour, "1h0m5s": time.Hour + 5*time.Second, "1.5s": 1500 * time.Millisecond,
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestFormatGivesTheSameAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "n") << rapid.IntRange(0, 40).Draw(t, "shift")
		if got, err := ParseBytes(FormatBytes(n)); err != nil || got != n {
			t.Fatalf("%s: %d, %v", FormatBytes(n), got, err)
		}
		if got, err := ParseBitRate(FormatBitRate(n)); err != nil || got != n {
			t.Fatalf("%s: %d, %v", FormatBitRate(n), got, err)
		}
		d := time.Duration(n >> 1)
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%s: %d, %v", FormatDuration(d), got, err)
		}
	})
	for n, want := range map[uint64]string{1e7: "10Mbit", 15e8: "1500Mbit", 8e6: "8Mbit", 10 << 20: "10Mibit", 7: "7", 0: "0"} {
		if got := FormatBitRate(n); got != want {
			t.Errorf("FormatBitRate(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[uint64]string{4096: "4KiB", 1500000: "1500kB", 1 << 20: "1MiB", 7: "7"} {
		if got := FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d) = %q, want %q", n, got, want)
		}
	}
}

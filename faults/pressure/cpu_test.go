package pressure

import (
	"errors"
	"math"
	"testing"

	"faultline.dev/faultline/faults/cgroupfile"
)

func TestCPULimitInAPeriod(t *testing.T) {
	for _, test := range []struct {
		limit, before string
		quota, period uint64
	}{
		{"20%", "max 100000", 20_000, 100_000},
		{"20%", "max 25000", 5_000, 25_000},
		{"1%", "max 25000", 1_000, 100_000},
		{"12.5%", "90000 100000", 12_500, 100_000},
		{"250%", "max 100000", 250_000, 100_000},
		{"20000", "max 50000", 20_000, 50_000},
		{"20000 80000", "max 50000", 20_000, 80_000},
		{"9999999999 1000", "max 1000000", 9_999_999_999, 1_000},
	} {
		limit, ok := parseCPU(test.limit)
		_, period, err := parseCPUMax(test.before)
		if !ok || err != nil {
			t.Fatalf("%s: %v, %v", test.limit, ok, err)
		}
		if quota, period := limit.of(period); quota != test.quota || period != test.period {
			t.Errorf("%s where %s is: %d %d, want %d %d", test.limit, test.before, quota, period, test.quota, test.period)
		}
		if _, err := limit.value(nil, test.before); err != nil {
			t.Errorf("%s where %s is: %v", test.limit, test.before, err)
		}
	}
}

func TestCPULimitsCompareByShare(t *testing.T) {
	for _, test := range []struct {
		limit, before string
		tighter       bool
	}{
		{"20%", "20000 100000", true},
		{"20%", "20001 100000", false},
		{"20%", "10000 50000", true},
		{"20%", "9999 50000", true},
		{"30000 100000", "300000 1000000", true},
		// The largest that the kernel takes (max_bw_quota_period_us).
		{"1000000%", "17592186044415 1000", false},
		{"9999999999 1000", "17592186044415 1000000", false},
		{"9999999999 1000", "9999999999 1000", true},
	} {
		limit, ok := parseCPU(test.limit)
		if !ok {
			t.Fatal(test.limit)
		}
		if _, err := limit.value(nil, test.before); errors.Is(err, cgroupfile.ErrTighter) != test.tighter {
			t.Errorf("%s where %s is: %v", test.limit, test.before, err)
		}
	}
	if _, err := (cpuLimit{quota: 5000}).value(nil, "what"); err == nil {
		t.Error("read nonsense")
	}
	if most := uint64(math.MaxUint64); most/longestPeriod < 1<<44 {
		t.Error("no limit is less than the kernel's largest quota")
	}
}

package dice

import (
	"testing"
	"testing/quick"
)

func TestBitsAreOfThePayloadAndSpreadEvenly(t *testing.T) {
	err := quick.Check(func(seed, ordinal uint64, length uint16) bool {
		bit := Bit(seed, ordinal, int(length)+1)
		return bit >= 0 && bit < min(int(length)+1, CorruptBytes)*8
	}, nil)
	if err != nil {
		t.Error(err)
	}
	const length, each = 10, 1000
	var times [length * 8]int
	for n := range uint64(length * 8 * each) {
		times[Bit(1, n, length)]++
	}
	for bit, n := range times {
		// Six standard deviations.
		if n < each-190 || n > each+190 {
			t.Errorf("bit %d was drawn %d times of %d, expected about %d", bit, n, length*8*each, each)
		}
	}
}

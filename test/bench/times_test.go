package bench

import "testing"

func TestLongestLossIsTheLongestRow(t *testing.T) {
	sent := []int64{10, 20, 30, 40, 50, 60, 70}
	for _, test := range []struct {
		lost map[int]bool
		want Outage
		ok   bool
	}{
		{nil, Outage{}, false},
		{map[int]bool{0: true}, Outage{10, 10}, true},
		{map[int]bool{1: true, 3: true, 4: true, 6: true}, Outage{40, 50}, true},
		{map[int]bool{5: true, 6: true}, Outage{60, 70}, true},
	} {
		got, ok := LongestLoss(sent, func(i int) bool { return !test.lost[i] })
		if got != test.want || ok != test.ok {
			t.Errorf("%v: got %v, %t, want %v, %t", test.lost, got, ok, test.want, test.ok)
		}
	}
}

func TestLongestPauseIsTheLongestGap(t *testing.T) {
	if got, ok := LongestPause([]int64{10, 20, 31, 90, 100, 120}, 10); !ok || got != (Outage{41, 90}) {
		t.Errorf("got %v, %t", got, ok)
	}
	if got, ok := LongestPause([]int64{10, 20, 30}, 10); ok {
		t.Errorf("got %v without a pause", got)
	}
}

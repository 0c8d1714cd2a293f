package dice

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/stat"
)

// tableText writes numbers as iproute2 does: eight to a line.
func tableText(comment string, numbers []int16) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", comment)
	for i, n := range numbers {
		fmt.Fprintf(&b, " %d", n)
		if i%8 == 7 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func writeTable(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "delays.dist")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// numbers are those of the file that t was read from.
func (t DelayTable) numbers() []int16 {
	list := make([]int16, len(t.entries))
	for i, entry := range t.entries {
		list[i] = int16(entry / (1 << delayFraction / netemScale))
	}
	return list
}

func TestTablesOfFilesAreTakenAsTheyStand(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{1, 2, 7, 4096, 10_000, MaxDelayTable} {
		numbers := make([]int16, size)
		for i := range numbers {
			numbers[i] = int16(random.IntN(1<<16) - 1<<15)
		}
		table, err := ReadDelayTable(writeTable(t, tableText("random", numbers)))
		if err != nil {
			t.Fatal(err)
		}
		if got := table.numbers(); !slices.Equal(got, numbers) || table.Size() != uint32(size) || table.Shape() != 0 {
			t.Errorf("%d numbers came back as %d others", size, len(got))
		}
		if value := table.Value(); len(value) != MaxDelayTable+1 || value[size-1] != table.entries[size-1] {
			t.Errorf("%d numbers: the map's value has %d", size, len(value))
		}
	}
}

func TestNumbersOfAFileAreEquallyLikely(t *testing.T) {
	spec := latency(100*time.Millisecond, 10*time.Millisecond, 0, 0)
	spec.Table = writeTable(t, "8192 -8192\t0 0 # one, two\n\r\n#\n 32767 -32768 4096 0")
	d := newDelay(t, 1, spec)
	seen := map[float64]int{}
	for _, delay := range d.samples(draws) {
		seen[delay/1e6]++
	}
	want := map[float64]float64{110: 1, 90: 1, 100: 3, 100 + 10*math.Round(32767e7/8192)/1e7: 1, 60: 1, 105: 1}
	for delay, parts := range want {
		p := parts / 8
		if got := float64(seen[delay]); math.Abs(got-p*draws) > 4*math.Sqrt(draws*p*(1-p)) {
			t.Errorf("%v ms was drawn %v times of %d, want %v", delay, got, draws, p*draws)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("drawn %v, want %v", seen, want)
	}
}

// NORMAL and PARETO are what netem's own tables hold, whose entries are the
// quantiles of their formulas in parts of 8192.
func TestNamedDistributionsAreThoseOfNetem(t *testing.T) {
	for distribution, quantile := range map[v1.Distribution]func(float64) float64{
		v1.Distribution_NORMAL: func(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) },
		v1.Distribution_PARETO: func(p float64) float64 { return (math.Pow(1-p, -1./3) - 1.5) * 4 / 3 },
	} {
		numbers := make([]int16, 4096)
		for i := range numbers {
			numbers[i] = int16(math.Round(min(max(quantile(float64(i)/4096)*netemScale, netemLeast), netemMost)))
		}
		spec := latency(time.Second, 100*time.Millisecond, 0, 0)
		spec.Table = writeTable(t, tableText("netem's", numbers))
		netem := newDelay(t, 1, spec).samples(draws)
		ours := newDelay(t, 1, latency(time.Second, 100*time.Millisecond, 0, distribution)).samples(draws)
		// The same random numbers: what is left is one step of the table.
		if distance := stat.DistanceBetween(ours, netem); distance > 0.001 {
			t.Errorf("%v: distance %.5f to netem's", distribution, distance)
		}
		other := newDelay(t, 2, spec).samples(draws)
		if distance := stat.DistanceBetween(ours, other); distance > stat.Critical(0.01, stat.Pooled(draws, draws)) {
			t.Errorf("%v: distance %.5f to netem's of another seed", distribution, distance)
		}
	}
}

func TestNonsenseInATableIsOneError(t *testing.T) {
	const number = "no whole number from -32768 to 32767 (in parts of 8192 of the jitter)"
	for text, want := range map[string]string{
		"":                         "t.dist:1:1: there is no number in the table",
		"# 1 2 3\n \n":             "t.dist:3:1: there is no number in the table",
		"1 2\n3 x4 y":              "t.dist:2:3: " + number,
		"1\n\n # a\n\t\t0.5":       "t.dist:4:3: " + number,
		"1 2, 3":                   "t.dist:1:3: " + number,
		"32768":                    "t.dist:1:1: " + number,
		"-32768 -32769":            "t.dist:1:8: " + number,
		"1 99999999999999999999":   "t.dist:1:3: " + number,
		"0x10":                     "t.dist:1:1: " + number,
		"1_0":                      "t.dist:1:1: " + number,
		"+-1":                      "t.dist:1:1: " + number,
		"1 -":                      "t.dist:1:3: " + number,
		"\u00e4\u00e4 1":           "t.dist:1:1: " + number,
		"1 \u00a02":                "t.dist:1:3: " + number,
		"1\x00":                    "t.dist:1:1: " + number,
		"\xff\xfe1":                "t.dist:1:1: " + number,
		"1 -010":                   "t.dist:1:3: a number with a leading 0, which tc reads as octal; write it without",
		strings.Repeat("1\n", 3e4): "t.dist:16385:1: more than 16384 numbers",
	} {
		_, err := ParseDelayTable("t.dist", text)
		if err == nil || err.Error() != want {
			t.Errorf("%.20q: %v, want %s", text, err, want)
		}
	}
}

func TestATableIsAFileOfReasonableSize(t *testing.T) {
	spec := latency(time.Second, time.Second, 0, 0)
	spec.Table = filepath.Join(t.TempDir(), "none")
	if _, err := NewDelay(1, spec); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), spec.Table) {
		t.Errorf("no file: %v", err)
	}
	spec.Table = writeTable(t, "1\n2\nsecret")
	if _, err := NewDelay(1, spec); err == nil || !strings.Contains(err.Error(), spec.Table+":3:1: ") || strings.Contains(err.Error(), "secret") {
		t.Errorf("nonsense: %v", err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo:        "is no regular file",
		t.TempDir(): "is no regular file",
		writeTable(t, strings.Repeat(" ", maxTableFile+1)): "is larger than a table may be (1 MiB)",
	} {
		if _, err := ReadDelayTable(path); err == nil || err.Error() != path+" "+want {
			t.Errorf("%v, want %s %s", err, path, want)
		}
	}
	spec.Jitter, spec.Table = nil, "/nowhere"
	if _, err := NewDelay(1, spec); err != nil {
		t.Errorf("a table is read for nothing: %v", err)
	}
}

func FuzzParseDelayTable(f *testing.F) {
	for _, seed := range []string{"1 2 3", "# x\n-32768\t32767\r\n", "0x1", "007", "+5", "1 # 2", "\xff", "-", "1\v2\f3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := ParseDelayTable("f", text)
		if err != nil {
			var line, column int
			if n, _ := fmt.Sscanf(err.Error(), "f:%d:%d: ", &line, &column); n != 2 || line < 1 || column < 1 || line > strings.Count(text, "\n")+1 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		numbers := table.numbers()
		again, err := ParseDelayTable("f", tableText("again", numbers))
		if err != nil || !slices.Equal(again.numbers(), numbers) {
			t.Errorf("%q: %v came back as %v, %v", text, numbers, again.numbers(), err)
		}
		d := Delay{Delay: 1e9, Jitter: 1e8, Table: table}
		for n := range uint64(10) {
			if delay := d.Draw(n, &DelayState{}); delay > d.Longest() || delay < 6e8 {
				t.Errorf("%q: draw %v", text, delay)
			}
		}
	})
}

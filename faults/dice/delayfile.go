package dice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"
)

// maxTableFile is the largest file in bytes that is read as a table. iproute2's
// own have 24 KB.
const maxTableFile = 1 << 20

// ReadDelayTable reads a distribution table of tc-netem(8), such as those of
// iproute2 in /usr/lib/tc: whole numbers from -32768 to 32767, separated by
// white space, at most MaxDelayTable of them; # begins a comment. Each number
// is equally likely and stands for T = number/8192, as with netem. A relative
// path begins at the working directory.
//
// What is wrong with the text is one error, "FILE:LINE:COLUMN: what". It quotes
// nothing: whoever may write a document could read with it what only root may.
func ReadDelayTable(path string) (DelayTable, error) {
	// A FIFO that nobody writes would be waited for forever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return DelayTable{}, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return DelayTable{}, err
	case !info.Mode().IsRegular():
		return DelayTable{}, fmt.Errorf("%s is no regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxTableFile+1))
	if err != nil {
		return DelayTable{}, err
	}
	if len(text) > maxTableFile {
		return DelayTable{}, fmt.Errorf("%s is larger than a table may be (1 MiB)", path)
	}
	return ParseDelayTable(path, string(text))
}

// ParseDelayTable is [ReadDelayTable] for a text; name stands for the file in
// errors.
func ParseDelayTable(name, text string) (DelayTable, error) {
	var numbers []int16
	line := 0
	for content := range strings.SplitSeq(text, "\n") {
		line++
		content, _, _ = strings.Cut(content, "#")
		for rest := strings.TrimLeft(content, space); rest != ""; rest = strings.TrimLeft(rest, space) {
			begin, word := content[:len(content)-len(rest)], rest
			if end := strings.IndexAny(rest, space); end >= 0 {
				word = rest[:end]
			}
			rest = rest[len(word):]
			number, err := parseNumber(word)
			if err == nil && len(numbers) == MaxDelayTable {
				err = fmt.Errorf("more than %d numbers", MaxDelayTable)
			}
			if err != nil {
				return DelayTable{}, fmt.Errorf("%s:%d:%d: %w", name, line, utf8.RuneCountInString(begin)+1, err)
			}
			numbers = append(numbers, number)
		}
	}
	if len(numbers) == 0 {
		return DelayTable{}, fmt.Errorf("%s:%d:1: there is no number in the table", name, line)
	}
	return steps(numbers), nil
}

// space is what separates numbers: isspace(3) in the C locale.
const space = " \t\v\f\r"

var (
	errNoNumber = fmt.Errorf("no whole number from %d to %d (in parts of %d of the jitter)", netemLeast, netemMost, netemScale)
	errOctal    = errors.New("a number with a leading 0, which tc reads as octal; write it without")
)

// parseNumber takes decimal numbers only. tc(8) takes what strtol(3) does, and
// cuts off what does not fit into 16 bits.
func parseNumber(word string) (int16, error) {
	digits := strings.TrimLeft(word, "+-")
	number, err := strconv.ParseInt(word, 10, 16)
	switch {
	case err != nil:
		return 0, errNoNumber
	case len(digits) > 1 && digits[0] == '0':
		return 0, errOctal
	}
	return int16(number), nil
}

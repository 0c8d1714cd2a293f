package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// outcome of a test.
type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "skip"
	// unsteady: it failed once, and passed each time when it was tried again.
	unsteady outcome = "unsteady"
)

// result is what one test, or one subtest without subtests of its own, did.
type result struct {
	Test    string
	Outcome outcome
	// Why a test was skipped, or how it failed: what it printed.
	Output string
}

// packageRun is what one package's binary did on one kernel.
type packageRun struct {
	ImportPath string
	Results    []result
	// Problem is what went wrong beside its tests: it did not end, or ended
	// with a status that no failed test explains.
	Problem string
	Elapsed time.Duration
	Output  string
}

func (p packageRun) count(o outcome) int {
	n := 0
	for _, r := range p.Results {
		if r.Outcome == o {
			n++
		}
	}
	return n
}

// splitter is a writer that takes the script's output apart by its marks.
type splitter struct {
	rest    []byte
	current *packageRun
	began   time.Time
	// begun is called when a binary starts; done gets each package as its
	// binary ends, Output only.
	begun func()
	done  func(run *packageRun, status int)
}

// Write takes output; a line is looked at when it is whole.
func (s *splitter) Write(data []byte) (int, error) {
	s.rest = append(s.rest, data...)
	for {
		line, rest, ok := bytes.Cut(s.rest, []byte("\n"))
		if !ok {
			return len(data), nil
		}
		s.line(strings.TrimSuffix(string(line), "\r"))
		s.rest = rest
	}
}

func (s *splitter) line(line string) {
	if path, ok := strings.CutPrefix(line, beginMark); ok {
		s.current, s.began = &packageRun{ImportPath: path}, time.Now()
		s.begun()
		return
	}
	if s.current == nil {
		return
	}
	if rest, ok := strings.CutPrefix(line, endMark+s.current.ImportPath+" "); ok {
		if status, err := strconv.Atoi(rest); err == nil {
			s.current.Elapsed = time.Since(s.began)
			s.done(s.current, status)
			s.current = nil
			return
		}
	}
	s.current.Output += line + "\n"
}

// close gives up a package whose binary never ended.
func (s *splitter) close() {
	if s.current != nil {
		s.current.Output += string(s.rest)
		s.current.Elapsed = time.Since(s.began)
		s.done(s.current, -1)
		s.current = nil
	}
}

// event is a line of go tool test2json.
type event struct {
	Action string
	Test   string
	Output string
}

// read fills in the results of a package from its output and the status of
// its binary, -1 for none.
func (p *packageRun) read(ctx context.Context, status int) error {
	command := exec.CommandContext(ctx, "go", "tool", "test2json", "-p", p.ImportPath)
	command.Stdin = strings.NewReader(p.Output)
	out, err := command.Output()
	if err != nil {
		return fmt.Errorf("reading the tests' output: %w", err)
	}
	return p.readEvents(bytes.NewReader(out), status)
}

func (p *packageRun) readEvents(events io.Reader, status int) error {
	var order []string
	outputs := map[string]string{}
	outcomes := map[string]outcome{}
	parents := map[string]bool{}
	decoder := json.NewDecoder(events)
	for {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("reading test2json's answer: %w", err)
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "run":
			order = append(order, e.Test)
			for i := range e.Test {
				if e.Test[i] == '/' {
					parents[e.Test[:i]] = true
				}
			}
		case "output":
			outputs[e.Test] += e.Output
		case string(passed), string(failed), string(skipped):
			outcomes[e.Test] = outcome(e.Action)
		}
	}
	for _, name := range order {
		o, ended := outcomes[name]
		if !ended {
			o = failed
			outputs[name] += "it did not end\n"
		}
		// A parent that passed, or failed because a subtest did, only repeats
		// what its subtests say.
		if parents[name] && (o == passed || o == failed && failedBelow(name, order, outcomes)) {
			continue
		}
		p.Results = append(p.Results, result{Test: name, Outcome: o, Output: said(outputs[name])})
	}
	switch {
	case status < 0:
		p.Problem = "its binary never ended: the kernel hung or died, or its time was up"
	case status == 124 || status == 137:
		p.Problem = fmt.Sprintf("its time was up (status %d)", status)
	case status != 0 && p.count(failed) == 0:
		p.Problem = fmt.Sprintf("its binary ended with status %d and no failed test", status)
	case status == 0 && p.count(failed) > 0:
		p.Problem = "its binary ended with status 0 although tests failed"
	}
	return nil
}

// failedBelow says whether a subtest of a test failed or did not end.
func failedBelow(name string, order []string, outcomes map[string]outcome) bool {
	for _, other := range order {
		if strings.HasPrefix(other, name+"/") && outcomes[other] != passed && outcomes[other] != skipped {
			return true
		}
	}
	return false
}

var (
	chatter  = regexp.MustCompile(`^\s*(=== |--- )`)
	position = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)
)

// said is a test's output without the test runner's own lines.
func said(output string) string {
	var kept []string
	for line := range strings.Lines(output) {
		if line = strings.TrimRight(line, "\n"); line != "" && !chatter.MatchString(line) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// topLevel is the test to which a subtest belongs.
func (r result) topLevel() string {
	name, _, _ := strings.Cut(r.Test, "/")
	return name
}

// why is the reason of a skipped test: the last thing that it said.
func (r result) why() string {
	lines := strings.Split(r.Output, "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if loc := position.FindStringIndex(lines[i]); loc != nil {
			return strings.Join(append([]string{lines[i][loc[1]:]}, trimAll(lines[i+1:])...), " ")
		}
	}
	return strings.TrimSpace(r.Output)
}

func trimAll(lines []string) []string {
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

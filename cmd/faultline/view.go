package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// view is a few lines at the foot of a terminal that are drawn again in place.
// Its methods but for progress and reverting are called with talk's lock held.
type view struct {
	talk  *talk
	out   io.Writer
	style style
	now   func() time.Time
	size  func() size

	title string
	// durations of the faults by name.
	durations map[string]time.Duration
	status    *v1.RunStatus
	aborted   string
	// drawn are the widths of the lines on the terminal.
	drawn []int
}

func newView(a *app, experiment *v1.Experiment) *view {
	v := &view{
		talk:  a.talk,
		out:   a.stderr,
		style: a.style(a.stderr),
		now:   a.now,
		size: func() size {
			s, _ := a.terminal(a.stderr)
			if s.width <= 0 {
				s.width = 80
			}
			if s.height <= 0 {
				s.height = 24
			}
			return s
		},
		title:     experiment.GetMetadata().GetName(),
		durations: map[string]time.Duration{},
	}
	if experiment.GetSpec().GetObserve() {
		v.title += " (observe: nothing is hit)"
	}
	for _, step := range experiment.GetSpec().GetSteps() {
		for _, f := range step.GetFaults() {
			v.durations[f.GetName()] = f.GetDuration().AsDuration()
		}
	}
	return v
}

// show puts a view below what is written, or takes it away for nil.
func (t *talk) show(v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view != nil {
		t.view.hide()
	}
	t.view = v
	if v != nil {
		v.redraw()
	}
}

func (v *view) progress(s *v1.RunStatus) {
	v.talk.mu.Lock()
	defer v.talk.mu.Unlock()
	if v.talk.view != v {
		return
	}
	v.status = s
	v.redraw()
}

func (v *view) reverting(why string) {
	v.talk.mu.Lock()
	defer v.talk.mu.Unlock()
	v.aborted = why
	if v.talk.view == v {
		v.redraw()
	}
}

// hide takes the view off the terminal; the cursor is where its first line was.
func (v *view) hide() {
	io.WriteString(v.out, v.home()+"\x1b[J")
	v.drawn = nil
}

// home moves the cursor to the start of the first line that was drawn. Since
// then the terminal may have become narrower, and a line be broken into many.
func (v *view) home() string {
	rows, width := 0, v.size().width
	for _, w := range v.drawn {
		rows += max(1, (w+width-1)/width)
	}
	if rows == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r", rows)
}

// redraw puts the view on the terminal, over the one that is there: clearing it
// first would flicker. The cursor is below it then.
func (v *view) redraw() {
	var b strings.Builder
	b.WriteString(v.home())
	v.drawn = nil
	lines := v.lines()
	// What has scrolled off can't be drawn over.
	if most := max(v.size().height-2, 3); len(lines) > most {
		left := len(lines) - most + 1
		lines = append(lines[:most-1], v.fit(v.style.faint, fmt.Sprintf("and %s more", count(left, "line"))))
	}
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n")
		v.drawn = append(v.drawn, utf8.RuneCountInString(escapes.ReplaceAllString(l, "")))
	}
	b.WriteString("\x1b[J")
	io.WriteString(v.out, b.String())
}

// escapes are the sequences that style puts in.
var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// lines is the view as it is now; none is wider than the terminal, or the
// cursor could not find back over it.
func (v *view) lines() []string {
	if v.status == nil {
		return []string{v.fit(v.style.bold, v.title+": planning")}
	}
	s := v.status
	out := []string{v.fit(v.style.bold, v.title+"  "+v.style.strip(s.GetRunId()))}
	out = append(out, v.progressLine(s))
	out = append(out, v.faultLines(s)...)
	for i, p := range s.GetProbes() {
		if i == 0 {
			out = append(out, v.fit(v.style.bold, "probes"))
		}
		out = append(out, v.probeLine(p))
	}
	foot := "Ctrl-C aborts and takes everything back"
	if v.aborted != "" {
		foot = v.aborted + ": aborting, everything is taken back"
		return append(out, v.fit(v.style.warn, foot))
	}
	return append(out, v.fit(v.style.faint, foot))
}

// progressLine is the phase, and the time of the active faults as a bar.
func (v *view) progressLine(s *v1.RunStatus) string {
	phase := s.GetPhase()
	var whole, left time.Duration
	for _, f := range s.GetFaults() {
		if f.GetState() != v1.FaultState_ACTIVE {
			continue
		}
		duration := v.durations[f.GetName()]
		rest := f.GetStartTime().AsTime().Add(duration).Sub(v.now())
		if rest > left || whole == 0 {
			whole, left = duration, max(rest, 0)
		}
	}
	if whole == 0 {
		return v.fit(nil, phase)
	}
	after := fmt.Sprintf(" %s left of %s", short(left), short(whole))
	room := min(v.size().width-1-len(after)-utf8.RuneCountInString(phase)-3, 40)
	if room < 8 {
		return v.fit(nil, phase+after)
	}
	full := int(float64(room) * float64(whole-left) / float64(whole))
	full = min(max(full, 0), room)
	return fmt.Sprintf("%s [%s%s]%s", phase, v.style.good(strings.Repeat("#", full)), strings.Repeat(".", room-full), after)
}

func (v *view) faultLines(s *v1.RunStatus) []string {
	names, states := 0, 0
	for _, f := range s.GetFaults() {
		names = max(names, utf8.RuneCountInString(f.GetName()))
		states = max(states, utf8.RuneCountInString(stateWord(f.GetState())))
	}
	var out []string
	for _, f := range s.GetFaults() {
		line := fmt.Sprintf("  %-*s  %-*s", names, f.GetName(), states, stateWord(f.GetState()))
		if f.GetStartTime() != nil {
			line += "  " + hits(f)
		}
		line += "  by " + f.GetMechanism()
		var paint func(string) string
		switch f.GetState() {
		case v1.FaultState_PENDING, v1.FaultState_REVERTED:
			paint = v.style.faint
		case v1.FaultState_REVERT_FAILED, v1.FaultState_NOT_INJECTED:
			paint = v.style.bad
		}
		out = append(out, v.fit(paint, line))
		if w := f.GetWarnings(); len(w) > 0 && f.GetState() == v1.FaultState_ACTIVE {
			out = append(out, v.fit(v.style.warn, "    warning: "+w[len(w)-1]))
		}
	}
	return out
}

// hits is what a fault has done, in words.
func hits(f *v1.FaultResult) string {
	text := fmt.Sprintf("matched %s  injected %s", thousands(f.GetMatched()), thousands(f.GetInjected()))
	if f.GetMatched() > 0 {
		text += fmt.Sprintf(" (%.1f %%)", 100*float64(f.GetInjected())/float64(f.GetMatched()))
	}
	if f.GetMissed() > 0 {
		text += "  missed " + thousands(f.GetMissed())
	}
	return text
}

func (v *view) probeLine(p *v1.ProbeResult) string {
	switch {
	case p.GetAttempts() == 0:
		return v.fit(v.style.faint, "  "+p.GetName()+"  waiting")
	case p.GetFailures() == 0:
		return v.fit(v.style.good, fmt.Sprintf("  %s  ok  %s", p.GetName(), count(int(p.GetAttempts()), "attempt")))
	default:
		return v.fit(v.style.bad, fmt.Sprintf("  %s  failed %d of %d: %s", p.GetName(), p.GetFailures(), p.GetAttempts(), p.GetError()))
	}
}

// fit cuts a line to the terminal's width and paints it. The last column stays
// free: some terminals wrap as soon as it is written.
func (v *view) fit(paint func(string) string, line string) string {
	line = v.style.strip(line)
	if room := max(v.size().width-1, 10); utf8.RuneCountInString(line) > room {
		runes := []rune(line)
		line = string(runes[:room-3]) + "..."
	}
	if paint == nil {
		return line
	}
	return paint(line)
}

// strip takes control characters out of a text from elsewhere: an error of a
// probe must not move the cursor.
func (style) strip(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

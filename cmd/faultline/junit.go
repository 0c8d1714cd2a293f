package main

import (
	"encoding/xml"
	"fmt"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// The elements of a JUnit report, as far as Jenkins, GitLab and GitHub actions
// read them.
type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	ClassName string        `xml:"classname,attr"`
	Name      string        `xml:"name,attr"`
	Time      string        `xml:"time,attr"`
	Failure   *junitMessage `xml:"failure,omitempty"`
	Error     *junitMessage `xml:"error,omitempty"`
	Skipped   *junitMessage `xml:"skipped,omitempty"`
	Output    string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// junit is a result as one suite: a case for each fault, each probe and the
// rollback.
func junit(r *v1.Result) ([]byte, error) {
	start, end := r.GetStartTime().AsTime(), r.GetEndTime().AsTime()
	suite := junitSuite{
		Name:      r.GetName(),
		Time:      seconds(start, end),
		Timestamp: start.UTC().Format("2006-01-02T15:04:05"),
		Properties: []junitProperty{
			{"runId", r.GetRunId()},
			{"seed", fmt.Sprint(r.GetSeed())},
			{"verdict", r.GetVerdict().String()},
			{"reason", xmlText(r.GetReason())},
			{"observe", fmt.Sprint(r.GetObserve())},
			{"version", r.GetVersion()},
		},
	}
	for _, f := range r.GetFaults() {
		suite.Cases = append(suite.Cases, faultCase(r, f))
	}
	for _, p := range r.GetProbes() {
		suite.Cases = append(suite.Cases, probeCase(p))
	}
	rollback := junitCase{ClassName: "rollback", Name: "rollback", Time: "0.000"}
	if r.GetRollback() == v1.Rollback_FAILED {
		rollback.Error = &junitMessage{"something could not be taken back", xmlText(strings.Join(r.GetDifferences(), "\n"))}
	}
	suite.Cases = append(suite.Cases, rollback)
	// A run that broke before it had any fault must not look green.
	if r.GetVerdict() == v1.Verdict_ERROR && len(r.GetFaults()) == 0 {
		suite.Cases = append(suite.Cases, junitCase{
			ClassName: "run", Name: "run", Time: "0.000", Error: &junitMessage{Message: xmlText(r.GetReason())},
		})
	}
	for _, c := range suite.Cases {
		suite.Tests++
		switch {
		case c.Error != nil:
			suite.Errors++
		case c.Failure != nil:
			suite.Failures++
		case c.Skipped != nil:
			suite.Skipped++
		}
	}
	out, err := xml.MarshalIndent(junitSuites{Suites: []junitSuite{suite}}, "", "  ")
	if err != nil {
		return nil, err
	}
	return append([]byte(xml.Header), append(out, '\n')...), nil
}

func faultCase(r *v1.Result, f *v1.FaultResult) junitCase {
	c := junitCase{
		ClassName: "fault." + f.GetFault(),
		Name:      f.GetName(),
		Time:      "0.000",
		Output: fmt.Sprintf("step %s, mechanism %s, matched %d, injected %d, missed %d, target %s",
			f.GetStep(), f.GetMechanism(), f.GetMatched(), f.GetInjected(), f.GetMissed(), describeTarget(f.GetTarget())),
	}
	if f.GetStartTime() != nil && f.GetEndTime() != nil {
		c.Time = seconds(f.GetStartTime().AsTime(), f.GetEndTime().AsTime())
	}
	c.Output = xmlText(c.Output)
	switch {
	case f.GetState() == v1.FaultState_PENDING:
		c.Skipped = &junitMessage{Message: "not reached"}
	case f.GetState() == v1.FaultState_NOT_INJECTED, f.GetState() == v1.FaultState_REVERT_FAILED, f.GetError() != "":
		c.Error = &junitMessage{Message: xmlText(stateWord(f.GetState()) + ": " + f.GetError())}
	case r.GetVerdict() == v1.Verdict_ABORTED:
		c.Skipped = &junitMessage{Message: xmlText("ended early: " + r.GetReason())}
	case r.GetVerdict() == v1.Verdict_NO_EFFECT && f.GetInjected() == 0:
		c.Failure = &junitMessage{Message: fmt.Sprintf("hit nothing: %d events matched, %d were missed", f.GetMatched(), f.GetMissed())}
	}
	return c
}

func probeCase(p *v1.ProbeResult) junitCase {
	c := junitCase{
		ClassName: "probe",
		Name:      p.GetName(),
		Time:      "0.000",
		Output:    fmt.Sprintf("attempts %d, failures %d", p.GetAttempts(), p.GetFailures()),
	}
	if !p.GetPassed() {
		c.Failure = &junitMessage{Message: xmlText(fmt.Sprintf("failed %d of %d times: %s", p.GetFailures(), p.GetAttempts(), p.GetError()))}
	}
	return c
}

// xmlText takes out what XML 1.0 can't hold. encoding/xml would put U+FFFD
// there; a blank is easier to read.
func xmlText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, s)
}

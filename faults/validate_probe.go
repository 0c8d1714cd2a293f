package faults

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

func validateProbes(p *check.Problems, probes []*v1.Probe) {
	seen := make(map[string]string)
	for i, probe := range probes {
		at := fmt.Sprintf("spec.probes[%d]", i)
		p.Append(at, validateProbe(probe))
		if first := seen[probe.GetName()]; first != "" {
			p.Add(at+".name", "%q is already the name of %s", probe.GetName(), first)
		} else if probe.GetName() != "" {
			seen[probe.GetName()] = at
		}
	}
}

// validateProbe returns paths relative to the probe.
func validateProbe(probe *v1.Probe) []fault.Problem {
	var p check.Problems
	validateTitle(&p, "name", probe.GetName())
	p.Positive("interval", probe.GetInterval(), fault.MaxDuration)
	p.Positive("timeout", probe.GetTimeout(), fault.MaxDuration)
	switch kind := probe.GetProbe().(type) {
	case nil:
		p.Add("", "what to probe is missing; give one of http, command, tcp")
	case *v1.Probe_Http:
		validateHTTP(&p, kind.Http)
	case *v1.Probe_Command:
		validateCommand(&p, kind.Command)
	case *v1.Probe_Tcp:
		validateTCP(&p, kind.Tcp.GetAddress())
	}
	return p.List()
}

// token is what RFC 9110 section 5.6.2 allows for methods and field names.
var token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func validateHTTP(p *check.Problems, probe *v1.HttpProbe) {
	u, err := url.Parse(probe.GetUrl())
	switch {
	case probe.GetUrl() == "":
		p.Add("http.url", "is missing; give one such as http://127.0.0.1:8080/health")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		p.Add("http.url", "%q is no URL of http or https; write one such as http://127.0.0.1:8080/health", probe.GetUrl())
	case u.Port() != "" && !portNumber(u.Port()):
		p.Add("http.url", "port %q is not a number from 1 to 65535", u.Port())
	}
	if s := probe.GetStatus(); s != 0 && (s < 100 || s > 599) {
		p.Add("http.status", "is %d; allowed is 100 to 599", s)
	}
	if m := probe.GetMethod(); m != "" && !token.MatchString(m) {
		p.Add("http.method", "%q is no method; write one such as GET", m)
	}
	keys := make([]string, 0, len(probe.GetHeaders()))
	for key := range probe.GetHeaders() {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if !token.MatchString(key) || strings.ContainsAny(probe.GetHeaders()[key], "\r\n\x00") {
			p.Add(document.KeyPath("http.headers", key), "is no header: a name of letters, digits and -, a value of one line")
		}
	}
}

func validateCommand(p *check.Problems, probe *v1.CommandProbe) {
	if len(probe.GetCommand()) == 0 || probe.GetCommand()[0] == "" {
		p.Add("command.command", "is missing; give the program and its arguments, such as [pg_isready, -q]")
	}
	for i, argument := range probe.GetCommand() {
		if strings.ContainsRune(argument, 0) {
			p.Add(fmt.Sprintf("command.command[%d]", i), "holds a NUL")
		}
	}
	if c := probe.GetExitCode(); c < 0 || c > 255 {
		p.Add("command.exitCode", "is %d; allowed is 0 to 255", c)
	}
}

func validateTCP(p *check.Problems, address string) {
	host, port, err := net.SplitHostPort(address)
	switch {
	case address == "":
		p.Add("tcp.address", "is missing; give host:port, such as 127.0.0.1:5432")
	case err != nil || host == "" || strings.ContainsAny(host, " /"):
		p.Add("tcp.address", "%q is not host:port; write it as 127.0.0.1:5432, db.example.com:5432 or [::1]:5432", address)
	case !portNumber(port):
		p.Add("tcp.address", "port %q is not a number from 1 to 65535", port)
	}
}

func portNumber(s string) bool {
	v, err := strconv.ParseUint(s, 10, 16)
	return err == nil && v > 0
}

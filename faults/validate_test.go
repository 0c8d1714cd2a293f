package faults

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

// experiment reads a document that the decoder takes.
func experiment(t *testing.T, text string) *v1.Experiment {
	t.Helper()
	d, err := document.Decode("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d.Experiment
}

// problems are one line each.
func problems(exp *v1.Experiment) string {
	var lines []string
	for _, p := range Validate(exp) {
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}

func TestExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := document.Decode(name, data)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := problems(d.Experiment); got != "" {
			t.Errorf("%s: %s", name, got)
		}
		for _, step := range d.Experiment.Spec.Steps {
			for _, f := range step.Faults {
				if kind, err := KindOf(f); err != nil || !kind.Built() {
					t.Errorf("%s: fault %s can't be run with this version", name, f.Name)
				}
			}
		}
	}
}

func TestValidateExperiment(t *testing.T) {
	const good = "steps: [{faults: [{target: {pid: 7}, duration: 1s, networkPartition: }]}]"
	whole := func(spec string) string {
		return "apiVersion: faultline.dev/v1alpha1\nkind: Experiment\nmetadata: {name: x}\nspec: {" + spec + "}"
	}
	for name, c := range map[string]struct{ in, want string }{
		"good": {whole(good), ""},
		"empty": {"{}", `apiVersion: is missing; this version reads "faultline.dev/v1alpha1"
kind: is missing; write "Experiment"
metadata.name: is missing; give the experiment a name such as checkout-slow-db
spec.steps: is missing or empty; give at least one step with a fault`},
		"wrong version": {"apiVersion: faultline.dev/v2\nkind: Workflow\nmetadata: {name: x}\nspec: {" + good + "}",
			`apiVersion: is "faultline.dev/v2"; this version reads "faultline.dev/v1alpha1"
kind: is "Workflow"; write "Experiment"`},
		"name": {strings.Replace(whole(good), "name: x", "name: Big_Name", 1),
			`metadata.name: "Big_Name" is no name; allowed are lower-case letters, digits, '-' and '.', with a letter or digit at both ends`},
		"long name": {strings.Replace(whole(good), "name: x", "name: "+strings.Repeat("a", 254), 1),
			`metadata.name: has 254 characters; at most 253 are allowed`},
		"label": {strings.Replace(whole(good), "name: x", `name: x, labels: {"": a, b.c/d: "a\tb"}, annotations: {"": x}`, 1),
			"metadata.labels: has a label without a name\nmetadata.labels[\"b.c/d\"]: is no label; name and value have at most 253 printable characters each\nmetadata.annotations: has an entry without a name"},
		"short lease":    {whole("leaseTimeout: 500ms, " + good), "spec.leaseTimeout: is 500ms; allowed is 1s to 10m"},
		"long lease":     {whole("leaseTimeout: 11m, " + good), "spec.leaseTimeout: is 11m; allowed is 1s to 10m"},
		"step, no fault": {whole("steps: [{name: a}]"), "spec.steps[0].faults: is missing or empty; give at least one fault"},
		"names": {whole(`steps: [{name: "a\tb", faults: [{name: " a", target: {pid: 7}, duration: 1s, networkPartition: }]}]`),
			"spec.steps[0].name: \"a\\tb\" is no name; allowed are at most 100 printable characters, without a blank at the ends\nspec.steps[0].faults[0].name: \" a\" is no name; allowed are at most 100 printable characters, without a blank at the ends"},
		"fault twice": {whole("steps: [{faults: [{name: a, target: {pid: 7}, duration: 1s, networkPartition: }]}, {faults: [{name: a, target: {pid: 7}, duration: 1s, networkPartition: }]}]"),
			`spec.steps[1].faults[0].name: "a" is already the name of spec.steps[0].faults[0]`},
		"probe twice": {whole(good + ", probes: [{name: a, tcp: {address: 'a:1'}}, {name: a, tcp: {address: 'a:1'}}]"),
			`spec.probes[1].name: "a" is already the name of spec.probes[0]`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, problems(experiment(t, c.in))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidateFault(t *testing.T) {
	const kinds = "networkLoss, networkPartition, networkLatency, networkDuplicate, networkCorrupt, networkReorder, networkBandwidth, socketError, dnsFault, syscallError, syscallDelay, fileError, fileDelay, diskError, diskDelay, cpuPressure, memoryPressure, ioPressure, pidsPressure, processKill, processPause"
	with := func(kind string) string { return "{target: {pid: 7}, duration: 10s, " + kind + "}" }
	target := func(target string) string { return "{target: " + target + ", duration: 10s, networkPartition: {}}" }
	for in, want := range map[string]string{
		"{}": "no kind of fault is given; name one, such as networkLoss: {percent: 30} (all: " + kinds + ")\n" +
			"target: no target is given; give one of cgroup, systemdUnit, pid, container, pod, host\n" +
			"duration: is missing; give a duration above 0, at most 24h",
		"{target: {pid: 7}, duration: 0s, networkPartition: }":  "duration: is 0s; allowed is above 0, at most 24h",
		"{target: {pid: 7}, duration: 25h, networkPartition: }": "duration: is 25h; allowed is above 0, at most 24h",

		with("networkPartition: , rampUp: 11s"):                           "rampUp: is 11s, longer than the duration of 10s",
		with("networkPartition: , rampUp: 0s"):                            "rampUp: is 0s; allowed is above 0, at most 24h",
		with("networkPartition: , pulse: {on: 0s}"):                       "pulse.on: is 0s; allowed is above 0, at most 24h\npulse.off: is missing; give a duration above 0, at most 24h",
		with("networkLoss: {percent: 1}, rate: {probability: 0}"):         "rate.probability: is 0; allowed is above 0, at most 1 (0.3 is 30 percent)",
		with("networkLoss: {percent: 1}, rate: {probability: 30}"):        "rate.probability: is 30; allowed is above 0, at most 1 (0.3 is 30 percent)",
		with("networkLoss: {percent: 1}, rate: {every: 0, first: 0}"):     "rate.every: is 0; allowed is 1 (every event) and more\nrate.first: is 0, so that nothing would be hit; allowed is 1 and more",
		with("networkLoss: {percent: 1}, rate: {skip: 0, every: 1}"):      "",
		with("networkLoss: {percent: 130}"):                               "networkLoss.percent: 130 is no percentage; allowed is 0 to 100",
		with("networkLoss: {percent: 1}, filter: {ports: [http-alt]}"):    `filter.ports[0]: `,
		with("networkPartition: , persistence: PINNED"):                   "",
		with("networkPartition: , persistence: PROCESS, mechanism: auto"): "",
		with("networkLoss: {percent: 1}, mechanism: cls-bpf"):             `mechanism: networkLoss has no mechanism "cls-bpf"; did you mean cls_bpf? (allowed: auto, tcx, cls_bpf, cgroup_skb)`,
		with("networkLoss: {percent: 1}, mechanism: magic"):               `mechanism: networkLoss has no mechanism "magic" (allowed: auto, tcx, cls_bpf, cgroup_skb)`,
		target("{cgroup: /a, follow: true}"):                              "target.follow: is not built yet; leave it out (cgroups inside the target's belong to it in any case)",
		target("{cgroup: /a, follow: false}"):                             "",
		target("{}"):                                                      "target: no target is given; give one of cgroup, systemdUnit, pid, container, pod, host",
		target("{cgroup: ''}"):                                            "target.cgroup: is empty; give a path such as /shop/checkout",
		target("{cgroup: shop}"):                                          `target.cgroup: "shop" is not absolute; begin it with /`,
		target("{cgroup: /a/../b}"):                                       `target.cgroup: "/a/../b" holds ".."; write the path without`,
		target("{cgroup: /a//b/}"):                                        `target.cgroup: "/a//b/" is not a clean path; write /a/b`,
		target("{cgroup: /.}"):                                            `target.cgroup: "/." is the root cgroup, which holds every process; name one below it`,
		target("{cgroup: /a}"):                                            "",
		target("{pid: 0}"):                                                "target.pid: is 0; give the id of a process, above 0",
		target("{pid: -5}"):                                               "target.pid: is -5; give the id of a process, above 0",
		target("{pid: 1}"):                                                "target.pid: is 1, which is protected: it is the system's first process",
		target("{systemdUnit: checkout}"):                                 "",
		target("{systemdUnit: 'a@b.service'}"):                            "",
		target(`{systemdUnit: 'dev-disk\x2dby.swap'}`):                    "",
		target("{systemdUnit: ''}"):                                       "target.systemdUnit: is empty; give the name of a unit such as checkout.service",
		target("{systemdUnit: a b.service}"):                              `target.systemdUnit: "a b.service" is not the name of a unit; allowed are letters, digits and :-_.\@, as in checkout.service`,
		target("{systemdUnit: .service}"):                                 `target.systemdUnit: ".service" is not the name of a unit; allowed are letters, digits and :-_.\@, as in checkout.service`,
		target("{systemdUnit: daily.timer}"):                              `target.systemdUnit: "daily.timer" has no processes; allowed are units of .service, .slice, .scope, .socket, .mount, .swap`,
		target("{systemdUnit: -.slice}"):                                  `target.systemdUnit: "-.slice" is the root slice, which holds every process; name one below it`,
		target("{systemdUnit: init.scope}"):                               `target.systemdUnit: "init.scope" is protected: it holds the system's first process`,
		target("{container: 'a b'}"):                                      `target.container: "a b" is neither the id nor the name of a container`,
		target("{pod: {labels: {a: b}}}"):                                 "target.pod.namespace: is missing; give the namespace of the pods",
		target("{pod: {namespace: a}}"):                                   "target.pod: name and labels are missing; give one, or all pods of the namespace would be hit",
		target("{host: true}"):                                            "target.host: networkPartition is confined to a cgroup; it never takes the whole machine",
		target("{host: false}"):                                           "target.host: is false; write true, or give another target",
		target("{pid: 7, pick: {}}"):                                      "target.pick: is empty; give one of all, count, percent, or leave it out for all",
		target("{pid: 7, pick: {all: false}}"):                            "target.pick.all: is false; write true, or give count or percent",
		target("{pid: 7, pick: {count: 0}}"):                              "target.pick.count: is 0; allowed is 1 and more",
		target("{pid: 7, pick: {percent: 0}}"):                            "target.pick.percent: is 0; allowed is above 0, at most 100",
		target("{pid: 7, pick: {percent: 50}}"):                           "",

		with("networkLatency: {}"):                                                                      "networkLatency.delay: is missing; give a duration above 0, at most 1m",
		with("networkLatency: {delay: forever}"):                                                        "networkLatency.delay: is forever; allowed is above 0, at most 1m",
		with("networkLatency: {delay: 61s}"):                                                            "networkLatency.delay: is 1m1s; allowed is above 0, at most 1m",
		with("networkLatency: {delay: 1s, jitter: 2s}"):                                                 "networkLatency.jitter: is 2s; allowed is 0 up to the delay",
		with("networkLatency: {delay: 1s, distribution: PARETO, correlation: 3}"):                       "networkLatency.distribution: has no meaning without jitter\nnetworkLatency.correlation: has no meaning without jitter",
		with("networkLatency: {delay: 1s, jitter: 1s, correlation: 101}"):                               "networkLatency.correlation: 101 is no percentage; allowed is 0 to 100",
		with("networkDuplicate: {}"):                                                                    "networkDuplicate.percent: is missing or 0; give how many of 100 packets are sent twice, above 0, at most 100",
		with("networkCorrupt: {percent: -3}"):                                                           "networkCorrupt.percent: -3 is no percentage; allowed is 0 to 100",
		with("networkCorrupt: {percent: 3, correlation: -1}"):                                           "networkCorrupt.correlation: -1 is no percentage; allowed is 0 to 100",
		with("networkCorrupt: {checksum: RIGHT}"):                                                       "networkCorrupt.percent: is missing or 0; give how many of 100 packets are corrupted, above 0, at most 100",
		with("networkCorrupt: {percent: 3, checksum: RIGHT}"):                                           "",
		with("networkReorder: {percent: 3, correlation: 1e3}"):                                          "networkReorder.correlation: 1000 is no percentage; allowed is 0 to 100",
		with("networkReorder: {percent: 3, gap: 101}"):                                                  "networkReorder.gap: is 101; allowed is 0 to 100",
		with("networkReorder: {percent: 3, gap: 100}"):                                                  "",
		with("networkBandwidth: {burst: 1KiB}, rate: {every: 2}"):                                       "networkBandwidth.rate: is missing or 0; give bits per second, such as 10Mbit (networkPartition lets nothing through)\nrate: has no meaning for networkBandwidth, which does not choose among events",
		with("networkBandwidth: {rate: 7}"):                                                             "networkBandwidth.rate: is 7bit; at least 8bit are allowed",
		with("socketError: {}"):                                                                         "socketError.operations: is missing; give at least one of CONNECT, BIND, LISTEN, ACCEPT, SEND, RECV, GETSOCKOPT, SETSOCKOPT\nsocketError.errno: is missing; give the name of an error of errno(3), such as EIO",
		with("socketError: {operations: [SEND, SEND], errno: ECONREFUSED}"):                             "socketError.operations[1]: SEND is given twice\nsocketError.errno: unknown error \"ECONREFUSED\"; did you mean ECONNREFUSED?",
		with("socketError: {operations: [SEND], errno: EWOULDBLOCK}"):                                   "",
		with("dnsFault: {}"):                                                                            "dnsFault.names: is missing; give at least one pattern such as \"*.example.com\", or \"*\" for every name\ndnsFault.answer: is missing; give one of NXDOMAIN, SERVFAIL, REFUSED, TIMEOUT, ADDRESS, RANDOM_ADDRESS",
		with("dnsFault: {names: ['a*'], types: [B], answer: TIMEOUT, address: '::1'}"):                  "dnsFault.names[0]: \"a*\" is no pattern of a name; allowed are \"db.example.com\", \"*.example.com\" and \"*\"\ndnsFault.types[0]: unknown record type \"B\" (allowed: A, AAAA, ANY, CAA, CNAME, HTTPS, MX, NAPTR, NS, PTR, SOA, SRV, SVCB, TXT)\ndnsFault.address: belongs to the answer ADDRESS only",
		with("dnsFault: {names: ['*'], answer: ADDRESS}"):                                               "dnsFault.address: is missing; the answer ADDRESS needs an IPv4 or IPv6 address",
		with("dnsFault: {names: ['*'], answer: ADDRESS, address: here}"):                                "dnsFault.address: \"here\" is not an IPv4 or IPv6 address",
		with("syscallError: {calls: [opennat, read, read, exit], errno: EIO}"):                          "syscallError.calls[0]: unknown system call \"opennat\"; did you mean \"openat\"?\nsyscallError.calls[2]: \"read\" is given twice\nsyscallError.calls[3]: \"exit\" does not return to its caller, so that nothing could be injected",
		with("syscallError: {errno: EIO, arguments: [{index: 6}], path: a}"):                            "syscallError.calls: is missing; give at least one name of syscalls(2), such as openat\nsyscallError.arguments[0].index: is 6; allowed is 0 to 5\nsyscallError.arguments[0].is: is missing; give one of EQUAL, NOT_EQUAL, LESS, GREATER, HAS_BITS",
		with("syscallError: {calls: [openat, fsync], errno: EIO, path: 'a/**b'}"):                       "syscallError.path: \"a/**b\": ** stands alone between slashes, as in /var/**/x\nsyscallError.calls[1]: fsync is given no path; leave path out, or use fileError, which knows the files behind descriptors",
		with("syscallError: {calls: [read], errno: EIO}, filter: {ports: [1]}"):                         "filter: has no meaning for syscallError; it is for network, socket and DNS faults",
		with("syscallDelay: {calls: [read], delay: forever, jitter: 1s}"):                               "syscallDelay.jitter: has no meaning with a delay of forever",
		with("syscallDelay: {calls: [read], delay: 2m}"):                                                "syscallDelay.delay: is 2m; allowed is above 0, at most 1m, or forever",
		with("fileError: {}"):                                                                           "fileError.operations: is missing; give at least one of OPEN, READ, WRITE, FSYNC, MMAP, STAT, UNLINK, RENAME, MKDIR, TRUNCATE, LINK, CHMOD, IOCTL, LOCK, STATFS\nfileError.path: is missing; give an absolute path or pattern, such as /var/lib/cart/**\nfileError.errno: is missing; give the name of an error of errno(3), such as EIO",
		with("fileError: {operations: [OPEN], path: /a/b**, errno: EIO, errnos: [{errno: EPER}]}"):      "fileError.path: \"/a/b**\": ** stands alone between slashes, as in /var/**/x\nfileError.errnos: errno and errnos exclude each other; give one\nfileError.errnos[0].errno: unknown error \"EPER\"; did you mean EPERM?\nfileError.errnos[0].weight: is missing or 0; give how often it is chosen beside the others, at least 1",
		with("fileDelay: {operations: [OPEN], path: '/a/[', delay: 1s}"):                                "fileDelay.path: \"/a/[\" is not a pattern; wildcards are *, **, ? and [a-z]",
		with("fileDelay: {operations: [OPEN], path: '/**', delay: forever}"):                            "",
		with("diskError: {operations: [READ]}"):                                                         "diskError: device and mountPoint are missing; give one: a block device such as /dev/sdb, or where a file system is mounted",
		with("diskError: {operations: [READ], device: /dev/a, mountPoint: /b}"):                         "diskError.mountPoint: device and mountPoint exclude each other; give one",
		with("diskError: {operations: [READ], device: sda, errno: EI, sectors: [{first: 3, last: 2}]}"): "diskError.device: \"sda\" is no block device; give one below /dev, such as /dev/sdb\ndiskError.device: \"sda\" is not absolute; begin it with /\ndiskError.sectors[0].last: is 2, before the first, 3; both are included\ndiskError.errno: \"EI\" can't be had: the kernel makes EIO of whatever a disk fails with; leave it out, or use fileError for others",
		with("diskDelay: {operations: [READ], mountPoint: /var/, delay: 1s}"):                           "diskDelay.mountPoint: \"/var/\" is not a clean path; write /var",
		with("cpuPressure: {}, rate: {every: 2}"):                                                       "cpuPressure.limit: is missing; give percent of one CPU, such as \"20%\"\nrate: has no meaning for cpuPressure, which does not choose among events",
		with("cpuPressure: {load: -1, limit: '0%'}"):                                                    "cpuPressure.load: is not built yet; give a limit instead\ncpuPressure.limit: \"0%\" is no limit; write percent of one CPU (\"20%\"), at least 1, or quota and period in microseconds as in cpu.max (\"20000 100000\"), both from 1000, the period at most 1000000",
		with("cpuPressure: {limit: '20000 100000'}"):                                                    "",
		with("memoryPressure: {limit: 64k}"):                                                            "memoryPressure.limit: unknown unit \"k\" may be 1000 or 1024: write kB or KiB",
		with("memoryPressure: {limit: '0'}"):                                                            "memoryPressure.limit: is 0; give a size above 0, such as 256MiB",
		with("ioPressure: {limit: 'sda rbps=1'}"):                                                       "ioPressure.limit: \"sda rbps=1\" is no line of io.max; write the device's numbers and one or more of rbps, wbps, riops, wiops, as in \"8:0 rbps=1048576\"",
		with("pidsPressure: {limit: many}"):                                                             "pidsPressure.limit: \"many\" is no limit; write a whole number of tasks, such as \"100\"",
		with("processKill: {signal: term, count: 2}"):                                                   "processKill.signal: unknown signal \"term\"; did you mean SIGTERM?\nprocessKill.count: is 2 without an interval; give the time between two",
		with("processKill: {signal: SIGBANANA, interval: 11s}"):                                         "processKill.signal: unknown signal \"SIGBANANA\"; write a name of signal(7), such as SIGTERM\nprocessKill.interval: is 11s; allowed is above 0, at most 10s",
		with("cpuPressure: {limit: '20%'}, observe: true, rampUp: 1s, pulse: {on: 1s, off: 1s}"):        "rampUp: of cpuPressure is not built yet; leave it out\npulse: of cpuPressure is not built yet; leave it out\nobserve: cpuPressure can't be observed: what a limit would hit shows only when it is set; leave observe out",
		with("cpuPressure: {limit: '1e7%'}"):                                                            "cpuPressure.limit: \"1e7%\" is no limit; write percent of one CPU (\"20%\"), at least 1, or quota and period in microseconds as in cpu.max (\"20000 100000\"), both from 1000, the period at most 1000000",
		with("cpuPressure: {limit: '20000'}"):                                                           "",
		with("memoryPressure: {load: 64KiB}"):                                                           "memoryPressure.load: is not built yet; give a limit instead",
		with("pidsPressure: {}"):                                                                        "pidsPressure.limit: is missing; give a whole number of tasks, such as \"100\"",
		with("processPause: {signal: SIGSTOP, interval: 1s, count: 2}"):                                 "processPause.signal: SIGSTOP is not built yet; leave it out for the cgroup freezer\nprocessPause.interval: is not built yet; leave it out\nprocessPause.count: is not built yet; leave it out",
		with("processPause: {}, rate: {every: 2}, filter: {}"):                                          "filter: has no meaning for processPause; it is for network, socket and DNS faults\nrate: has no meaning for processPause, which does not choose among events",
		with("processPause: {signal: SIGKILL}"):                                                         "processPause.signal: \"SIGKILL\" does not pause; allowed is SIGSTOP, or nothing for the cgroup freezer",
	} {
		t.Run(in, func(t *testing.T) {
			f := new(v1.Fault)
			if _, err := document.Unmarshal("fault", []byte(in), f); err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, p := range validateFault(f) {
				lines = append(lines, p.Error())
			}
			got := strings.Join(lines, "\n")
			if prefix, ok := strings.CutSuffix(want, "]: "); ok && strings.HasPrefix(got, prefix) {
				return // the words are another package's
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidateProbe(t *testing.T) {
	for in, want := range map[string]string{
		"{}":         "what to probe is missing; give one of http, command, tcp",
		"{http: {}}": "http.url: is missing; give one such as http://127.0.0.1:8080/health",
		"{http: {url: 'http://[::1]:80/x', method: GET, status: 204}, interval: 1s}": "",
		"{http: {url: 'ftp://a/'}}":                                                 `http.url: "ftp://a/" is no URL of http or https; write one such as http://127.0.0.1:8080/health`,
		"{http: {url: 'http://:80/'}}":                                              `http.url: "http://:80/" is no URL of http or https; write one such as http://127.0.0.1:8080/health`,
		"{http: {url: 'localhost:80'}}":                                             `http.url: "localhost:80" is no URL of http or https; write one such as http://127.0.0.1:8080/health`,
		"{http: {url: 'http://a:99999'}}":                                           `http.url: port "99999" is not a number from 1 to 65535`,
		"{http: {url: 'http://a', status: 99, method: 'G T', headers: {'a b': c}}}": "http.status: is 99; allowed is 100 to 599\nhttp.method: \"G T\" is no method; write one such as GET\nhttp.headers[\"a b\"]: is no header: a name of letters, digits and -, a value of one line",
		"{command: {command: []}}":                                                  "command.command: is missing; give the program and its arguments, such as [pg_isready, -q]",
		"{command: {command: [a], exitCode: 256}}":                                  "command.exitCode: is 256; allowed is 0 to 255",
		"{command: {command: [a]}, interval: 0s, timeout: 25h}":                     "interval: is 0s; allowed is above 0, at most 24h\ntimeout: is 25h; allowed is above 0, at most 24h",
		"{tcp: {}}":                      "tcp.address: is missing; give host:port, such as 127.0.0.1:5432",
		"{tcp: {address: localhost}}":    `tcp.address: "localhost" is not host:port; write it as 127.0.0.1:5432, db.example.com:5432 or [::1]:5432`,
		"{tcp: {address: 'a:http-alt'}}": `tcp.address: port "http-alt" is not a number from 1 to 65535`,
		"{tcp: {address: 'a:0'}}":        `tcp.address: port "0" is not a number from 1 to 65535`,
		"{tcp: {address: '[::1]:1'}}":    "",
	} {
		t.Run(in, func(t *testing.T) {
			probe := new(v1.Probe)
			if _, err := document.Unmarshal("probe", []byte(in), probe); err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, p := range validateProbe(probe) {
				lines = append(lines, p.Error())
			}
			if diff := cmp.Diff(want, strings.Join(lines, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Messages that never were a document may hold what none can.
func TestValidateMessagesOfOthers(t *testing.T) {
	for _, exp := range []*v1.Experiment{
		nil,
		{Spec: &v1.ExperimentSpec{Steps: []*v1.Step{nil, {Faults: []*v1.Fault{nil}}}, Probes: []*v1.Probe{nil, {Probe: &v1.Probe_Http{}}}}},
	} {
		if len(Validate(exp)) == 0 {
			t.Errorf("no problems in %v", exp)
		}
	}
	f := &v1.Fault{Rate: &v1.Rate{Probability: proto.Float64(math.NaN())}, Fault: &v1.Fault_NetworkCorrupt{NetworkCorrupt: &v1.NetworkCorrupt{Percent: math.NaN()}}}
	var got []string
	for _, p := range validateFault(f) {
		got = append(got, p.Path)
	}
	if diff := cmp.Diff([]string{"target", "duration", "rate.probability", "networkCorrupt.percent"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	exp := experiment(t, `
spec:
  steps:
  - faults:
    - networkLoss: {percent: 1}
      target: {systemdUnit: checkout}
    - networkLoss: {percent: 1}
      target: {systemdUnit: shop.slice}
    - name: networkLoss-2
      networkPartition:
  - name: named
    faults:
    - networkPartition:
    - {}
  - {}
  probes:
  - http: {url: a}
  - http: {url: b}
  - name: http
    tcp: {address: c}
  - {}
`)
	Defaults(exp)
	var got []string
	for _, step := range exp.Spec.Steps {
		got = append(got, step.Name)
		for _, f := range step.Faults {
			got = append(got, "- "+f.Name+" "+f.GetTarget().GetSystemdUnit())
		}
	}
	for _, p := range exp.Spec.Probes {
		got = append(got, p.Name)
	}
	want := []string{
		"step 1", "- networkLoss checkout.service", "- networkLoss-3 shop.slice", "- networkLoss-2 ",
		"named", "- networkPartition ", "- fault ", "step 3", "http-2", "http-3", "http", "probe",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again := proto.Clone(exp).(*v1.Experiment)
	if Defaults(again); !proto.Equal(exp, again) {
		t.Error("doing it again changed something")
	}
	Defaults(nil)
}

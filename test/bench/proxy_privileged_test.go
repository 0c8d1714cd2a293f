//go:build linux && privileged

package bench_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
)

// loopback is where the proxy listens, beside its client.
const loopback = "127.0.0.1"

// pourPort is that of bulk TCP.
const pourPort = "7001"

// requestSize is that of a request, and of its answer, in bytes.
const requestSize = 128

// asked is what a client found: how long each of its requests took.
type asked struct {
	Times []time.Duration
	Wall  time.Duration
}

// ask sends requests to args[0] over args[1] connections, on each one after the
// answer to the one before, for each duration that it reads.
func ask(in io.Reader, out *json.Encoder, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	connections := make([]net.Conn, n)
	for i := range connections {
		if connections[i], err = net.Dial("tcp", args[0]); err != nil {
			return err
		}
	}
	return env.Serve(in, out, func(words []string) (any, error) {
		length, err := time.ParseDuration(words[0])
		if err != nil {
			return nil, err
		}
		return askAll(connections, length)
	})
}

func askAll(connections []net.Conn, length time.Duration) (result asked, err error) {
	var all sync.WaitGroup
	times, errs := make([][]time.Duration, len(connections)), make([]error, len(connections))
	start := time.Now()
	for i, c := range connections {
		if err := c.SetDeadline(start.Add(length + time.Minute)); err != nil {
			return result, err
		}
		all.Go(func() {
			message := make([]byte, requestSize)
			for time.Since(start) < length {
				begin := time.Now()
				if _, errs[i] = c.Write(message); errs[i] != nil {
					return
				}
				if _, errs[i] = io.ReadFull(c, message); errs[i] != nil {
					return
				}
				times[i] = append(times[i], time.Since(begin))
			}
		})
	}
	all.Wait()
	result.Wall = time.Since(start)
	for _, t := range times {
		result.Times = append(result.Times, t...)
	}
	return result, errors.Join(errs...)
}

// poured is what a server got over one connection, and in what time.
type poured struct {
	Bytes int64
	Took  time.Duration
}

// drain reads what comes to args[0] over one connection after the other, each to
// its end, and says how much it was.
func drain(_ io.Reader, out *json.Encoder, args []string) error {
	return env.ServeConnections(out, args[0], func(connection net.Conn) (any, error) {
		start := time.Now()
		// Far longer than a transfer, with what waits in a proxy.
		if err := connection.SetDeadline(start.Add(5 * time.Minute)); err != nil {
			return nil, err
		}
		n, err := io.Copy(io.Discard, connection)
		return poured{n, time.Since(start)}, err
	})
}

// pour sends as much as it can to args[0] for each duration that it reads. Only
// the server says how much came, as toxiproxy ends both directions of a connection
// when its client ends one.
func pour(in io.Reader, out *json.Encoder, args []string) error {
	if err := out.Encode("ready"); err != nil {
		return err
	}
	var line string
	for {
		if _, err := fmt.Fscanln(in, &line); err != nil {
			return nil
		}
		length, err := time.ParseDuration(line)
		if err != nil {
			return err
		}
		if err := pourOnce(args[0], length); err != nil {
			return err
		}
	}
}

func pourOnce(address string, length time.Duration) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	start := time.Now()
	chunk := make([]byte, 64<<10)
	for err == nil && time.Since(start) < length {
		_, err = connection.Write(chunk)
	}
	return errors.Join(err, connection.Close())
}

// proxied is one row of BenchmarkProxy: requests and bulk TCP.
type proxied struct {
	bulk
	// address to which the client connects; "" for the server's.
	address       string
	asker         *env.Process
	pourer, drain *env.Process
	times         []time.Duration
	// Of each round, in requests per second.
	asked []float64
}

// toxiproxy stands between the target and its server; with a delay its latency
// toxic holds what the target sends.
func toxiproxy(delay time.Duration) setting {
	return func(p *place) string {
		if *toxiproxyFlag == "" {
			return "no toxiproxy-server was named"
		}
		env.StartProgram(p.b, p.bystander, p.network.A, *toxiproxyFlag, "-host", loopback, "-port", "8474")
		for _, port := range []string{portText, pourPort} {
			p.post("/proxies", map[string]any{
				"name": port, "listen": net.JoinHostPort(loopback, port),
				"upstream": net.JoinHostPort(env.AddressB, port), "enabled": true,
			})
			if delay > 0 {
				p.post("/proxies/"+port+"/toxics", map[string]any{
					"type": "latency", "stream": "upstream", "attributes": map[string]any{"latency": delay.Milliseconds()},
				})
			}
		}
		return ""
	}
}

// post sends JSON to toxiproxy, which may still be starting.
func (p *place) post(path string, what map[string]any) {
	p.b.Helper()
	body, err := json.Marshal(what)
	if err != nil {
		p.b.Fatal(err)
	}
	p.network.A.Do(func() error {
		var connection net.Conn
		if err := env.Within(10*time.Second, func() (err error) {
			connection, err = net.Dial("tcp", net.JoinHostPort(loopback, "8474"))
			return err
		}); err != nil {
			return err
		}
		defer func() { _ = connection.Close() }()
		request, err := http.NewRequest(http.MethodPost, "http://"+loopback+":8474"+path, strings.NewReader(string(body)))
		if err != nil {
			return err
		}
		if err := request.Write(connection); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(connection), request)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		if answer.StatusCode/100 != 2 {
			text, _ := io.ReadAll(answer.Body)
			return fmt.Errorf("%s: %s: %s", path, answer.Status, text)
		}
		return nil
	})
}

// BenchmarkProxy compares a delay of 50 ms by toxiproxy, a TCP proxy, with one
// in the kernel: requests over 64 connections, and bulk TCP.
func BenchmarkProxy(b *testing.B) {
	const (
		delay       = 50 * time.Millisecond
		connections = 64
	)
	ports := []string{portText, pourPort}
	variants := []*proxied{
		{bulk: bulk{name: withNetem, set: netemDelay(delay)}},
		{bulk: bulk{name: "netem, again", set: netemDelay(delay)}},
		{bulk: bulk{name: "tcx_fq", set: late("tcx_fq", delay, ports...)}},
		{bulk: bulk{name: "cls_bpf_fq", set: late("cls_bpf_fq", delay, ports...)}},
		{bulk: bulk{name: "toxiproxy", set: toxiproxy(delay)}, address: loopback},
		{bulk: bulk{name: "no delay", set: nothing}},
		{bulk: bulk{name: "toxiproxy, no delay", set: toxiproxy(0)}, address: loopback},
	}
	var all []*bulk
	for _, v := range variants {
		all = append(all, &v.bulk)
	}
	setBulk(b, all, nothing)
	var active []*proxied
	for _, v := range variants {
		if v.missing != "" {
			continue
		}
		address := cmp.Or(v.address, env.AddressB)
		serve := func(workload, port string) *env.Process {
			var ready string
			p := env.Start(b, v.place.receiver, v.place.network.B, workload, net.JoinHostPort(env.AddressB, port))
			p.Read(&ready)
			return p
		}
		client := func(workload, port string, args ...string) *env.Process {
			var ready string
			p := env.Start(b, v.place.target, v.place.network.A, workload, append([]string{net.JoinHostPort(address, port)}, args...)...)
			p.Read(&ready)
			return p
		}
		serve("tcp-serve", portText)
		v.drain = serve("drain", pourPort)
		v.asker, v.pourer = client("ask", portText, strconv.Itoa(connections)), client("pour", pourPort)
		active = append(active, v)
	}
	bench.Interleave(*tcpRoundsFlag, len(active), func(i int) {
		v := active[i]
		var result asked
		v.asker.Tell(tcpLengthFlag.String())
		v.asker.Read(&result)
		v.times = append(v.times, result.Times...)
		v.asked = append(v.asked, float64(len(result.Times))/result.Wall.Seconds())
		var bulk poured
		v.pourer.Tell(tcpLengthFlag.String())
		v.drain.Read(&bulk)
		v.rates = append(v.rates, 8*float64(bulk.Bytes)/bulk.Took.Seconds())
	})
	report := newReport("proxy", "A delay of 50 ms beside that of a TCP proxy: requests over 64 connections, and bulk TCP; rates are ratios to netem's")
	report.Rounds = *tcpRoundsFlag
	report.Columns = []bench.Column{
		{Key: "requests", Head: "requests", Digits: 2},
		{Key: "p50_ms", Head: "p50, ms", Digits: 1},
		{Key: "p99_ms", Head: "p99, ms", Digits: 1},
		{Key: "throughput", Head: "bulk TCP", Digits: 2},
	}
	for _, v := range variants {
		row := bench.Row{Name: v.name, Skipped: v.missing}
		if v.missing == "" {
			row.Values = map[string]bench.Spread{
				"requests_per_second": bench.SpreadOf(v.asked),
				"p50_ms":              bench.SpreadOf([]float64{inMilliseconds(env.Quantile(v.times, 0.5))}),
				"p99_ms":              bench.SpreadOf([]float64{inMilliseconds(env.Quantile(v.times, 0.99))}),
				"bits_per_second":     bench.SpreadOf(v.rates),
			}
			if netem := variants[0]; netem.missing == "" {
				row.Values["requests"] = bench.SpreadOf(bench.Ratios(v.asked, netem.asked))
				row.Values["throughput"] = bench.SpreadOf(bench.Ratios(v.rates, netem.rates))
			}
		}
		report.Rows = append(report.Rows, row)
	}
	write(b, report)
}

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// What a client does. It is a closed loop, as most real clients are: a worker
// that waits for an answer asks nothing else, so that slow answers show as a
// lower rate, too.
const (
	servicePort = "8080"
	workers     = 20
	// patience is the time after which a request has failed.
	patience = 2 * time.Second
	// reportEvery is how often a client reports.
	reportEvery = 50 * time.Millisecond
)

// request is one request as its client saw it; times in nanoseconds, since 1970
// and of its duration.
type request struct {
	Start  int64 `json:"start"`
	Took   int64 `json:"took"`
	Failed bool  `json:"failed,omitempty"`
}

// report is what a client prints every now and then, as a line of JSON.
type report struct {
	// At is the time of the report in nanoseconds since 1970.
	At int64 `json:"at"`
	// Retransmitted counts the segments that this client's sockets have sent
	// again so far.
	Retransmitted uint64 `json:"retransmitted"`
	// Requests that have ended since the last report.
	Requests []request `json:"requests,omitempty"`
}

// serve is the service: a small page, and /health. It ends by being killed.
func serve(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(serviceAddress, servicePort))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	return server.Serve(listener)
}

// ask is a client: its workers ask the service, rate requests per second in all
// where the answers are quick, half of them on a connection that they keep, half
// on a new one each time.
func ask(ctx context.Context, out io.Writer, rate int) error {
	pace := workers * time.Second / time.Duration(rate)
	var (
		mu    sync.Mutex
		ended []request
		open  sockets
	)
	url := "http://" + net.JoinHostPort(serviceAddress, servicePort) + "/"
	for i := range workers {
		client := &http.Client{
			Timeout:   patience,
			Transport: &http.Transport{DialContext: open.dial, DisableKeepAlives: i%2 == 0},
		}
		go func() {
			// Spread out, so that the requests don't come in bursts.
			wait(ctx, pace*time.Duration(i)/workers)
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for ctx.Err() == nil {
				start := time.Now()
				err := get(ctx, client, url)
				r := request{Start: start.UnixNano(), Took: int64(time.Since(start)), Failed: err != nil}
				mu.Lock()
				ended = append(ended, r)
				mu.Unlock()
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		}()
	}
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	encoder := json.NewEncoder(out)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r := report{Retransmitted: open.retransmitted(), At: time.Now().UnixNano()}
		mu.Lock()
		r.Requests, ended = ended, nil
		mu.Unlock()
		if err := encoder.Encode(r); err != nil {
			return fmt.Errorf("reporting: %w", err)
		}
	}
}

// get asks once and reads the answer to its end.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// wait waits, and tells whether it was not interrupted.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

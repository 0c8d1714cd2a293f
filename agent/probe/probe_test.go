package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func httpOf(url string, edit func(*v1.HttpProbe)) *v1.Probe {
	h := &v1.HttpProbe{Url: url}
	if edit != nil {
		edit(h)
	}
	return &v1.Probe{Name: "p", Probe: &v1.Probe_Http{Http: h}}
}

func commandOf(exit int32, argv ...string) *v1.Probe {
	return &v1.Probe{Name: "p", Probe: &v1.Probe_Command{Command: &v1.CommandProbe{Command: argv, ExitCode: exit}}}
}

func tcpOf(addr string) *v1.Probe {
	return &v1.Probe{Name: "p", Probe: &v1.Probe_Tcp{Tcp: &v1.TcpProbe{Address: addr}}}
}

func mustNew(t *testing.T, p *v1.Probe) *Probe {
	t.Helper()
	out, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantError checks an attempt's error: one line that holds every part; no
// parts stand for success.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if len(parts) == 0 {
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
		return
	}
	if err == nil {
		t.Fatalf("no error, wanted one with %q", parts)
	}
	if strings.ContainsAny(err.Error(), "\r\n\t") {
		t.Errorf("error is not one line: %q", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
}

func TestNewRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		probe *v1.Probe
		want  string
	}{
		"no kind":          {&v1.Probe{Name: "p"}, "one of http, command, tcp"},
		"no URL":           {httpOf("", nil), "http.url"},
		"other scheme":     {httpOf("ftp://host/", nil), "http.url"},
		"no host":          {httpOf("http:///x", nil), "http.url"},
		"status":           {httpOf("http://h/", func(h *v1.HttpProbe) { h.Status = 700 }), "http.status"},
		"method":           {httpOf("http://h/", func(h *v1.HttpProbe) { h.Method = "GE T" }), "http.method"},
		"header":           {httpOf("http://h/", func(h *v1.HttpProbe) { h.Headers = map[string]string{"A": "x\r\nB: y"} }), "http.headers"},
		"no command":       {commandOf(0), "command.command"},
		"NUL in command":   {commandOf(0, "true", "a\x00b"), "NUL"},
		"exit code":        {commandOf(256, "true"), "command.exitCode"},
		"address":          {tcpOf("localhost"), "tcp.address"},
		"port by name":     {tcpOf("localhost:http"), "port"},
		"port 0":           {tcpOf("localhost:0"), "port"},
		"no host in tcp":   {tcpOf(":80"), "tcp.address"},
		"interval":         {&v1.Probe{Interval: durationpb.New(0), Probe: tcpOf("h:1").Probe}, "interval"},
		"negative timeout": {&v1.Probe{Timeout: durationpb.New(-1), Probe: tcpOf("h:1").Probe}, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New(tc.probe)
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
			wantError(t, err, tc.want)
		})
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	p := mustNew(t, tcpOf("127.0.0.1:1"))
	if p.timeout != 5*time.Second || p.interval != time.Second || p.when != v1.Probe_CONTINUOUS || p.abort {
		t.Errorf("defaults are %+v", p)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		if code/100 == 3 {
			w.Header().Set("Location", "/status/200")
		}
		w.WriteHeader(code)
	})
	mux.HandleFunc("/hop/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		if n > 0 {
			http.Redirect(w, r, fmt.Sprintf("/hop/%d", n-1), http.StatusFound)
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.Header.Get("X-Test"))
	})
	mux.HandleFunc("/late-in-body", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", maxBody)+"needle")
	})
	mux.HandleFunc("/half", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s := httptest.NewServer(mux)
	defer s.Close()

	for name, tc := range map[string]struct {
		probe *v1.Probe
		want  []string
	}{
		"200":                {httpOf(s.URL+"/status/200", nil), nil},
		"204":                {httpOf(s.URL+"/status/204", nil), nil},
		"503":                {httpOf(s.URL+"/status/503", nil), []string{"expected a status from 200 to 399", "got 503"}},
		"named 503":          {httpOf(s.URL+"/status/503", func(h *v1.HttpProbe) { h.Status = 503 }), nil},
		"200 instead of 201": {httpOf(s.URL+"/status/200", func(h *v1.HttpProbe) { h.Status = 201 }), []string{"expected status 201", "got 200"}},
		"named redirect":     {httpOf(s.URL+"/status/302", func(h *v1.HttpProbe) { h.Status = 302 }), nil},
		"five redirects":     {httpOf(s.URL+"/hop/5", nil), nil},
		"six redirects":      {httpOf(s.URL+"/hop/6", nil), []string{"more than 5 redirects"}},
		"method and headers": {httpOf(s.URL+"/echo", func(h *v1.HttpProbe) {
			h.Method, h.Headers, h.BodyContains = "POST", map[string]string{"X-Test": "yes", "Host": "shop.test"}, "POST shop.test yes"
		}), nil},
		"body":               {httpOf(s.URL+"/echo", func(h *v1.HttpProbe) { h.BodyContains = "nowhere" }), []string{`body that contains "nowhere"`, "without it"}},
		"body past 1 MiB":    {httpOf(s.URL+"/late-in-body", func(h *v1.HttpProbe) { h.BodyContains = "needle" }), []string{`"needle"`, "1048576 bytes"}},
		"half of the answer": {httpOf(s.URL+"/half", nil), []string{"expected the whole body", "unexpected EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, mustNew(t, tc.probe).Attempt(t.Context()), tc.want...)
		})
	}
}

func TestHTTPConnectsForEachAttempt(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	p := mustNew(t, httpOf(s.URL, nil))
	for range 3 {
		wantError(t, p.Attempt(t.Context()))
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("3 attempts made %d connections", n)
	}
}

func TestHTTPIgnoresProxyOfEnvironment(t *testing.T) {
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	// Local hosts never go to a proxy, so another name; it does not resolve
	// (RFC 6761), and only the proxy would answer for it.
	if err := mustNew(t, httpOf("http://faultline.invalid/", nil)).Attempt(t.Context()); err == nil {
		t.Error("a host that does not exist answered")
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
}

func TestHTTPVerifiesCertificates(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	wantError(t, mustNew(t, httpOf(s.URL, nil)).Attempt(t.Context()), "certificate")
}

// silent is a listener whose connections are accepted by the kernel and never
// answered.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestTimeoutSaysWhatWasExpected(t *testing.T) {
	t.Parallel()
	p := httpOf("http://"+silent(t)+"/", nil)
	p.Timeout = durationpb.New(50 * time.Millisecond)
	wantError(t, mustNew(t, p).Attempt(t.Context()), "expected a status from 200 to 399 within 50ms, got none")
}

func TestTCP(t *testing.T) {
	t.Parallel()
	addr := silent(t)
	wantError(t, mustNew(t, tcpOf(addr)).Attempt(t.Context()))

	// A bound socket that does not listen keeps the port free of others.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	wantError(t, mustNew(t, tcpOf(closed)).Attempt(t.Context()), "tcp "+closed, "expected a connection", "connection refused")
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		probe *v1.Probe
		want  []string
	}{
		"success":            {commandOf(0, "true"), nil},
		"wanted status":      {commandOf(3, "sh", "-c", "exit 3"), nil},
		"other status":       {commandOf(0, "sh", "-c", "echo one >&2; echo two >&2; exit 3"), []string{"expected exit status 0", "got exit status 3", "one two"}},
		"success not wanted": {commandOf(1, "true"), []string{"expected exit status 1", "got exit status 0"}},
		"signal":             {commandOf(0, "sh", "-c", "kill -TERM $$"), []string{"got signal: terminated"}},
		"missing program":    {commandOf(0, "faultline-no-such-program"), []string{"expected exit status 0", "not found"}},
		"no shell":           {commandOf(1, "test", "-n", "$(echo x)", "-a", "$HOME", "=", "/"), nil},
		"end of stderr":      {commandOf(0, "sh", "-c", "i=0; while [ $i -lt 500 ]; do echo line $i >&2; i=$((i+1)); done; exit 1"), []string{"line 499"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := mustNew(t, tc.probe).Attempt(t.Context())
			wantError(t, err, tc.want...)
			if err != nil && len(err.Error()) > 2*maxStderr {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
}

// running tells whether the process whose number is in the file runs.
func running(t *testing.T, pidFile string) bool {
	t.Helper()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(b)), "stat"))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// await polls until the condition holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting until %s", what)
		case <-tick.C:
		}
	}
}

func TestCommandTimeoutKillsItsChildren(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	// The child holds standard error open, so that waiting for the pipe
	// would take as long as the child.
	p := commandOf(0, "sh", "-c", `sh -c 'echo $$ > "$0.tmp"; mv "$0.tmp" "$0"; exec tail -f /dev/null' "$0" & wait`, pid)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var err error
	probe := mustNew(t, p)
	wg.Go(func() { err = probe.Attempt(ctx) })
	await(t, "the child runs", func() bool { _, err := os.Stat(pid); return err == nil })
	cancel()
	wg.Wait()
	wantError(t, err, "expected exit status 0", "canceled")
	await(t, "the child has ended", func() bool { return !running(t, pid) })

	p.Timeout = durationpb.New(100 * time.Millisecond)
	wantError(t, mustNew(t, p).Attempt(t.Context()), "expected exit status 0 within 100ms, got none")
	await(t, "the child has ended", func() bool { return !running(t, pid) })
}

func TestCommandLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	p := commandOf(0, "sh", "-c", `tail -f /dev/null & echo $! > "$0"`, pid)
	wantError(t, mustNew(t, p).Attempt(t.Context()))
	await(t, "the child has ended", func() bool { return !running(t, pid) })
}

func TestCommandThatLeavesItsGroupDoesNotHoldTheProbe(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	p := commandOf(0, "sh", "-c", `setsid sh -c 'echo $$ > "$0.tmp"; mv "$0.tmp" "$0"; exec tail -f /dev/null' "$0" & while ! [ -e "$0" ]; do :; done`, pid)
	wantError(t, mustNew(t, p).Attempt(t.Context()))
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil {
		t.Errorf("ending the process that left its group: %v", err)
	}
}

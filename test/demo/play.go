//go:build linux

package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// experiment is a valid document by itself; only the cgroup's name is changed.
//
//go:embed experiment.yaml
var experiment string

// documentName is its name in the directory in which faultline runs.
const documentName = "demo.yaml"

// experimentCgroup is the cgroup that the document names.
const experimentCgroup = "/faultline-demo/client"

const (
	healthy = 4 * time.Second
	// After the fault a request that began during it may still wait for its
	// answer; the phase "after" begins when none does.
	settle = patience
	// again is how long the phase "after" is.
	again = 4 * time.Second
	// look is how often the live line and what is attached are looked at.
	look = 250 * time.Millisecond
)

// demo is one performance.
type demo struct {
	*screen
	faultline string
	stage     *stage
	// dir is a directory for the document, the journal and the report.
	dir               string
	client, bystander *record
	// rate is how many requests a client sends per second.
	rate int
	// slow: even so answers take long.
	slow bool
	// felt is what each felt in the phases: before, during, after.
	clientFelt, bystanderFelt []summary
	// Segments retransmitted in the clients' namespace until then.
	namespaceBefore, namespaceAfter uint64
	// What was attached on the stage before, most at a time during, and after
	// the fault.
	attachedBefore, attachedDuring, attachedAfter []string
	// answer is what faultline printed at the end, result its report.
	// status is what it knows to be left behind.
	answer, status string
	result         result
}

// result is what the demo reads of faultline's report.
type result struct {
	Verdict     string   `json:"verdict"`
	Rollback    string   `json:"rollback"`
	Differences []string `json:"differences"`
	Faults      []struct {
		Mechanism string      `json:"mechanism"`
		Matched   json.Number `json:"matched"`
		Injected  json.Number `json:"injected"`
		Missed    json.Number `json:"missed"`
		StartTime time.Time   `json:"startTime"`
		EndTime   time.Time   `json:"endTime"`
	} `json:"faults"`
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "faultline-demo-"); err != nil {
		return err
	}
	if d.stage, err = newStage(); err != nil {
		return fmt.Errorf("setting the stage: %w", err)
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	d.introduce()

	d.say("%s", d.bold("1. Four seconds without a fault"))
	if d.attachedBefore, err = d.stage.attached(); err != nil {
		return err
	}
	start := time.Now()
	if err := d.phase(ctx, start, start.Add(healthy), 0); err != nil {
		return err
	}

	d.say("%s", d.bold("2. Eight seconds of an experiment"))
	if err := d.inject(ctx); err != nil {
		return err
	}
	fault := d.result.Faults[0]
	if err := d.phase(ctx, fault.StartTime, fault.EndTime, settle); err != nil {
		return err
	}

	after := fault.EndTime.Add(settle)
	d.say("%s", d.bold("3. What was on its way has settled; four seconds as before"))
	if err := d.phase(ctx, after, after.Add(again), 0); err != nil {
		return err
	}
	if d.namespaceAfter, err = retransmitted(d.clientPID()); err != nil {
		return err
	}
	if d.attachedAfter, err = d.stage.attached(); err != nil {
		return err
	}
	if d.status, err = d.askStatus(ctx); err != nil {
		return err
	}
	return d.conclude()
}

func (d *demo) close() error {
	var err error
	if d.stage != nil {
		err = d.stage.close()
	}
	if d.dir != "" {
		err = errors.Join(err, os.RemoveAll(d.dir))
	}
	return err
}

func (d *demo) introduce() {
	d.say("%s", d.bold("A client loses 30 % of its packets to a service. Its neighbour feels nothing."))
	d.say("")
	d.lines("  ", []string{
		"service    HTTP on " + serviceAddress + ":" + servicePort + ", in cgroup " + d.stage.name(roleService),
		fmt.Sprintf("client     %d requests/s, half", d.rate) + " of them on new connections, each given up",
		"           after 2 s; in cgroup " + d.stage.name(roleClient),
		"bystander  the same to the same port by the same network interface, but in",
		"           cgroup " + d.stage.name(roleBystander),
		"",
		"They have networks of their own: nothing of this machine's is touched.",
	})
	if d.slow {
		d.lines("  ", []string{"", "This machine is busy or slow: answers take long even without a fault."})
	}
	d.say("")
}

// rates are what a client may send per second: the most that the machine
// answers quickly is taken.
var rates = []int{200, 80, 30}

// begin starts the service and its clients and waits until they work well.
func (d *demo) begin(ctx context.Context) error {
	d.show("     starting a service and its clients")
	defer d.show("")
	if _, err := d.stage.start(roleService, d.stage.service, os.Stderr); err != nil {
		return err
	}
	for i, rate := range rates {
		d.rate = rate
		if err := d.beginClients(ctx); err != nil {
			return err
		}
		now := time.Now()
		well := d.client.lately(now.Add(-time.Second), now).quick() && d.bystander.lately(now.Add(-time.Second), now).quick()
		d.slow = !well
		if well || i == len(rates)-1 {
			break
		}
		if err := errors.Join(d.stage.end(roleClient), d.stage.end(roleBystander)); err != nil {
			return err
		}
	}
	var err error
	d.namespaceBefore, err = retransmitted(d.clientPID())
	return err
}

// quick tells whether answers come so fast that a lost packet stands out: Linux
// sends again after 200 ms at the soonest (TCP_RTO_MIN).
func (s summary) quick() bool { return s.requests > 0 && s.p95 < 100*time.Millisecond }

func (d *demo) beginClients(ctx context.Context) error {
	d.client, d.bystander = &record{}, &record{}
	for role, r := range d.clients() {
		lines, err := d.stage.start(role, d.stage.client, os.Stderr, fmt.Sprintf("%s=%d", rateVariable, d.rate))
		if err != nil {
			return err
		}
		go r.follow(lines)
	}
	err := within(10*time.Second, func() error {
		if ctx.Err() == nil && !(d.client.answered() && d.bystander.answered()) {
			return errors.New("the service does not answer its clients")
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The first requests pay for starting up.
	if !wait(ctx, 1500*time.Millisecond) {
		return ctx.Err()
	}
	return nil
}

// clientPID is a process in the namespace of the clients.
func (d *demo) clientPID() int { return d.stage.processes[roleClient].Process.Pid }

// clients goes over the clients in the order in which they are shown.
func (d *demo) clients() func(func(string, *record) bool) {
	return func(yield func(string, *record) bool) {
		_ = yield(roleClient, d.client) && yield(roleBystander, d.bystander)
	}
}

// phase waits for the end of a phase, and for the answers to what was asked in
// it, and says what the clients felt.
func (d *demo) phase(ctx context.Context, from, to time.Time, answers time.Duration) error {
	watching, cancel := context.WithDeadline(ctx, to.Add(answers+2*reportEvery))
	defer cancel()
	d.follow(watching)
	if err := ctx.Err(); err != nil {
		return err
	}
	client, bystander := d.client.between(from, to), d.bystander.between(from, to)
	d.clientFelt = append(d.clientFelt, client)
	d.bystanderFelt = append(d.bystanderFelt, bystander)
	d.say("     client     %s", client)
	d.say("     bystander  %s", bystander)
	d.say("")
	return nil
}

// follow keeps the live line up to date until ctx ends.
func (d *demo) follow(ctx context.Context) {
	defer d.show("")
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		now := time.Now()
		second := d.client.lately(now.Add(-time.Second), now)
		neighbour := d.bystander.lately(now.Add(-time.Second), now)
		d.show(fmt.Sprintf("     client %3.0f/s, p95 %7s, %2d sent again; bystander %3.0f/s, p95 %7s",
			second.rate, latency(second.p95), second.retransmitted, neighbour.rate, latency(neighbour.p95)))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// inject runs faultline beside the clients and shows what it says.
func (d *demo) inject(ctx context.Context) error {
	document := strings.Replace(experiment, experimentCgroup, d.stage.name(roleClient), 1)
	if err := os.WriteFile(filepath.Join(d.dir, documentName), []byte(document), 0o600); err != nil {
		return err
	}
	d.say("")
	for line := range strings.Lines(document) {
		d.say("%s", d.faint("     "+strings.TrimRight(line, "\n")))
	}
	d.say("")
	args := []string{"run", documentName, "--state-dir", "state", "--report", "json=out.json", "--events", "0"}
	d.say("%s", d.bold("  $ faultline "+strings.Join(args, " ")))

	var answer bytes.Buffer
	cmd := d.command(ctx, args...)
	cmd.Stdout = &answer
	cmd.Stderr = &indented{screen: d.screen}
	if err := d.stage.client.do(cmd.Start); err != nil {
		return fmt.Errorf("starting faultline: %w", err)
	}
	watching, over := context.WithCancel(context.Background())
	looked := make(chan error)
	go func() { looked <- d.lookAtStage(watching) }()
	go func() { defer over(); _ = cmd.Wait() }()
	d.follow(watching)
	lookErr := <-looked
	d.answer = strings.TrimRight(answer.String(), "\n")
	if d.answer != "" {
		d.say("")
		for line := range strings.Lines(d.answer) {
			d.lines("     ", []string{cut(strings.TrimRight(line, "\n"), 75)})
		}
		d.say("")
	}
	if ctx.Err() != nil {
		return fmt.Errorf("faultline was told to abort and ended with exit status %d: %w", cmd.ProcessState.ExitCode(), ctx.Err())
	}
	if lookErr != nil {
		return lookErr
	}
	return d.readResult(cmd.ProcessState)
}

// command is a call of faultline. When ctx ends, it is asked to take everything
// back and gets the time for it.
func (d *demo) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.faultline, args...)
	cmd.Dir = d.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// lookAtStage asks the kernel again and again what is attached on the stage, until ctx
// ends, and keeps the longest answer.
func (d *demo) lookAtStage(ctx context.Context) error {
	for wait(ctx, look) {
		now, err := d.stage.attached()
		if err != nil {
			return err
		}
		if len(now) > len(d.attachedDuring) {
			d.attachedDuring = now
		}
	}
	return nil
}

func (d *demo) readResult(ended *os.ProcessState) error {
	file, err := os.ReadFile(filepath.Join(d.dir, "out.json"))
	if err == nil {
		err = json.Unmarshal(file, &d.result)
	}
	if err != nil {
		return fmt.Errorf("faultline ended with exit status %d; reading its report: %w", ended.ExitCode(), err)
	}
	if !ended.Success() || len(d.result.Faults) != 1 || d.result.Faults[0].StartTime.IsZero() {
		return fmt.Errorf("faultline ended with exit status %d: verdict %s, rollback %s",
			ended.ExitCode(), d.result.Verdict, d.result.Rollback)
	}
	return nil
}

// askStatus asks faultline what it knows to be left behind; it fails when that
// is something.
func (d *demo) askStatus(ctx context.Context) (string, error) {
	out, err := d.command(ctx, "status", "--state-dir", "state").Output()
	if err != nil {
		return "", fmt.Errorf("faultline status: %w\n%s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

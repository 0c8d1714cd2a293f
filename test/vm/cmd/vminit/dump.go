package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"faultline.dev/faultline/test/vm/internal/wire"
)

// answerDumps tells the host what the processes do, whenever it asks.
func answerDumps(port io.Reader, out *wire.Writer) {
	question := make([]byte, 1)
	for {
		if _, err := port.Read(question); err != nil {
			return
		}
		if question[0] != wire.AskDump {
			continue
		}
		text := processes("/proc")
		if err := out.Send(wire.Dump, text[:min(len(text), wire.MaxPayload)]); err != nil {
			return
		}
	}
}

// processes describes the processes that are not the kernel's threads: a line
// as of ps and, where it can be read, the top of the stack in the kernel.
func processes(proc string) []byte {
	const stackLines = 6
	var text bytes.Buffer
	entries, _ := os.ReadDir(proc)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join(proc, entry.Name())
		arguments, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(arguments) == 0 {
			continue // gone, or a thread of the kernel
		}
		tasks, _ := os.ReadDir(filepath.Join(dir, "task"))
		fmt.Fprintf(&text, "%6d %s %s, %d threads: %s\n", pid, field(dir, "State"), cgroup(dir), len(tasks),
			strings.TrimSpace(strings.ReplaceAll(string(arguments), "\x00", " ")))
		stack, err := os.ReadFile(filepath.Join(dir, "stack"))
		if err != nil {
			continue
		}
		for i, line := range strings.Split(strings.TrimSpace(string(stack)), "\n") {
			if i == stackLines {
				break
			}
			fmt.Fprintf(&text, "         %s\n", line)
		}
	}
	return text.Bytes()
}

// field returns a field of a process's status file.
func field(dir, name string) string {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

// cgroup returns the path of a process's cgroup v2.
func cgroup(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return "?"
	}
	_, path, _ := strings.Cut(string(text), "0::")
	return strings.TrimSpace(path)
}

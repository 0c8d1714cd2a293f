package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"faultline.dev/faultline/agent/engine"
	"faultline.dev/faultline/agent/policy"
	"faultline.dev/faultline/agent/target"
	"faultline.dev/faultline/faults/kernel"
)

// engine puts together what runs experiments on this machine.
func (a *app) engine() (*engine.Engine, error) {
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	rules, err := policy.Load(policyFile)
	if err != nil {
		return nil, err
	}
	return &engine.Engine{
		StateDir:   a.stateDir,
		CgroupRoot: root,
		Targets:    &target.Resolver{CgroupRoot: root, SelfPID: os.Getpid()},
		Prober:     kernel.NewProber(root, a.log),
		Resolver:   net.DefaultResolver,
		StopFile:   stopFile,
		MaxLease:   rules.MaxLeaseTimeout,
		Guard:      a.startGuard,
		Version:    a.version,
		Log:        a.log,
	}, nil
}

// cgroupRoot is where cgroup v2 is mounted, "" when it is not.
func cgroupRoot() (string, error) {
	root, err := kernel.Cgroup2Mount()
	if errors.Is(err, kernel.ErrNoCgroup2) {
		return "", nil
	}
	return root, err
}

// needed are the capabilities without which nothing can be injected, planned
// or taken back: loading programs, entering network namespaces, attaching.
var needed = []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}

// requireRoot says in one message what a command lacks, before it does
// anything.
func requireRoot(command string) error {
	d := kernel.Describe()
	var missing []string
	for _, c := range needed {
		if !slices.Contains(d.Capabilities, c) {
			missing = append(missing, c)
		}
	}
	if !d.InitialUserNamespace {
		missing = append(missing, "the initial user namespace")
	}
	if len(missing) == 0 {
		return nil
	}
	return &exitError{exitNotInjected, fmt.Errorf("%s needs root: this process runs as user %d without %s; nothing was changed",
		command, os.Geteuid(), strings.Join(missing, ", "))}
}

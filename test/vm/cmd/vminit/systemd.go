package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/wire"
)

const (
	// serviceArgument makes this program the service that runs the command.
	serviceArgument = "service"
	// benchDir is where systemd's service finds this program.
	benchDir    = "/run/faultline-vm"
	systemd     = "/lib/systemd/systemd"
	unitDir     = "/run/systemd/system"
	target      = "faultline-vm.target"
	commandUnit = "faultline-vm-command.service"
)

// systemdFiles are what systemd finds beside the machine's own files. The target
// needs only what every service needs, D-Bus and the command; a start that does
// not get there is ended by the bench, which waits for the command to begin. An id keeps systemd from taking this for a
// machine's first boot, when it would enable every unit that is installed.
var systemdFiles = map[string]string{
	unitDir + "/" + target: `[Unit]
Description=Test bench
Requires=basic.target ` + commandUnit + `
Wants=dbus.service
JobTimeoutSec=infinity
JobRunningTimeoutSec=infinity
AllowIsolate=yes
`,
	unitDir + "/" + commandUnit: `[Unit]
Description=Command of the test bench
Requires=basic.target
After=basic.target dbus.service
JobTimeoutSec=infinity
JobRunningTimeoutSec=infinity

[Service]
Type=oneshot
ExecStart=` + benchDir + `/vminit ` + serviceArgument + `
StandardInput=null
TimeoutStartSec=infinity
FailureAction=reboot-force
OOMPolicy=continue
Delegate=yes
LimitMEMLOCK=infinity
`,
	"/run/systemd/journald.conf.d/faultline-vm.conf": "[Journal]\nStorage=volatile\n",
	"/etc/fstab":      "",
	"/etc/machine-id": "fa0171fa0171fa0171fa0171fa0171fa\n",
	"/etc/hostname":   "faultline-test\n",
}

// masked are the units that the machine may have, and that take time or need
// hardware and network which a guest lacks.
var masked = []string{
	"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
	"systemd-udev-trigger.service", "systemd-udev-settle.service", "systemd-hwdb-update.service",
	"systemd-firstboot.service", "systemd-sysusers.service", "systemd-random-seed.service",
	"systemd-machine-id-commit.service", "systemd-update-done.service", "systemd-journal-flush.service",
	"systemd-journal-catalog-update.service", "systemd-binfmt.service", "systemd-modules-load.service",
	"systemd-sysctl.service", "systemd-remount-fs.service", "systemd-fsck-root.service",
	"systemd-timesyncd.service", "systemd-networkd.service", "systemd-network-generator.service",
	"systemd-resolved.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
	"systemd-update-utmp.service", "systemd-tpm2-setup-early.service", "apparmor.service",
	"networking.service", "ifupdown-pre.service", "keyboard-setup.service", "console-setup.service",
	"kmod-static-nodes.service", "ldconfig.service", "proc-sys-fs-binfmt_misc.automount",
	"swap.target", "tmp.mount", "timers.target", "paths.target", "cloud-init.target",
	"dev-hugepages.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
	"modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
	"modprobe@fuse.service", "modprobe@loop.service", "modprobe@dm_mod.service",
}

// startSystemd replaces this process by the machine's systemd, which runs the
// command as a service. It only returns with an error.
func startSystemd(config wire.Config) error {
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	// The initramfs is gone, but this program is still there to be read.
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	err = errors.Join(
		write(filepath.Join(benchDir, "config.json"), text, 0o644),
		write(filepath.Join(benchDir, "vminit"), program, 0o755),
	)
	for name, content := range systemdFiles {
		err = errors.Join(err, write(name, []byte(content), 0o644))
	}
	for _, name := range masked {
		err = errors.Join(err, os.Symlink(os.DevNull, filepath.Join(unitDir, name)))
	}
	if err != nil {
		return fmt.Errorf("preparing systemd: %w", err)
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	args := []string{systemd, "--unit=" + target, "--show-status=no", "--log-target=kmsg", "--log-level=notice"}
	err = syscall.Exec(systemd, args, env)
	return fmt.Errorf("starting %s: %w; run test/vm/install", systemd, err)
}

func write(name string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, content, mode)
}

// runService runs the command as a part of systemd's service.
func runService() error {
	config, err := readConfig(filepath.Join(benchDir, "config.json"))
	if err != nil {
		return err
	}
	port, err := openPort(20 * time.Second)
	if err != nil {
		return err
	}
	return relay(port, config, &syscall.SysProcAttr{Setsid: true}, func(pid int) int {
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
				return exitStatus(status)
			}
		}
	})
}

package target

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Unit types (systemd.unit(5)); only the first have a cgroup.
var (
	unitsWithCgroup    = []string{"service", "scope", "slice", "socket", "mount", "swap"}
	unitsWithoutCgroup = []string{"target", "timer", "path", "device", "automount", "snapshot"}
)

// unitName completes a unit's name as systemctl(1) does: without a known
// suffix it is a service.
func unitName(given string) (string, error) {
	if given == "" || strings.ContainsAny(given, "/\x00 \t\n") {
		return "", tag(ErrInvalid, fmt.Errorf("systemdUnit %q is not the name of a unit: wanted one such as checkout.service", given))
	}
	suffix := strings.TrimPrefix(path.Ext(given), ".")
	switch {
	case slices.Contains(unitsWithCgroup, suffix):
		return given, nil
	case slices.Contains(unitsWithoutCgroup, suffix):
		return "", tag(ErrInvalid, fmt.Errorf("unit %s is of a type that has no processes: wanted a %s", given, strings.Join(unitsWithCgroup, ", ")))
	}
	return given + ".service", nil
}

// unit resolves a target of kind systemdUnit.
func (r *Resolver) unit(ctx context.Context, h *hierarchy, given string) ([]string, error) {
	name, err := unitName(given)
	if err != nil {
		return nil, err
	}
	dir := r.SystemdDir
	if dir == "" {
		dir = "/run/systemd/system"
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("target systemdUnit %s: %w (%s is missing): name a cgroup or a pid", name, ErrNoSystemd, dir)
	}
	dial := r.DialSystemd
	if dial == nil {
		dial = dbus.NewWithContext
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to systemd over D-Bus: %w", err)
	}
	defer conn.Close()
	props, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("asking systemd for unit %s: %w", name, err)
	}
	// For a unit that nobody knows systemd still answers, with an empty one.
	text := func(key string) string { s, _ := props[key].(string); return s }
	switch state := text("LoadState"); state {
	case "not-found":
		return nil, tag(ErrNotFound, fmt.Errorf("systemd knows no unit %s", name))
	case "masked":
		return nil, tag(ErrNotFound, fmt.Errorf("unit %s is masked: it does not run", name))
	}
	cgroup := text("ControlGroup")
	if active := text("ActiveState"); active == "inactive" || active == "failed" || cgroup == "" {
		return nil, tag(ErrNotFound, fmt.Errorf("unit %s does not run (%s, %s): it has no cgroup", name, active, text("SubState")))
	}
	rel, ok := parseNSPath(cgroup).below(h.shown)
	if !ok {
		return nil, tag(ErrNotFound, fmt.Errorf("unit %s is in cgroup %s, which can't be reached through %s", name, cgroup, h.root))
	}
	if rel != "." && !h.exists(rel) {
		return nil, tag(ErrNotFound, fmt.Errorf("unit %s (%s, %s) has no processes: its cgroup %s is not there", name, text("ActiveState"), text("SubState"), cgroup))
	}
	return []string{rel}, nil
}

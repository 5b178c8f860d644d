package lxc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// startLimit is how long pct waits for lxc-start to say something.
const startLimit = 10 * time.Second

// States of lxc-monitord's messages (state.h).
const (
	stopped  = 0
	starting = 1
	running  = 2
)

// monitord is a connection to lxc-monitord of /var/lib/lxc.
type monitord struct{ conn *net.UnixConn }

// monitorSocket has a hash of the path in it (monitor.c), always the same one.
const monitorSocket = "@lxc/ad055575fe28ddd5//var/lib/lxc"

func watch() (*monitord, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: monitorSocket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &monitord{c}, nil
}

// state returns the next state of a container that is told.
func (m *monitord) state(vmid int) (int, error) {
	msg := make([]byte, 264) // int type; char name[256]; int value
	for {
		if _, err := io.ReadFull(m.conn, msg); err != nil {
			return 0, err
		}
		name, _, _ := strings.Cut(string(msg[4:260]), "\x00")
		if binary.NativeEndian.Uint32(msg) == 0 && name == strconv.Itoa(vmid) {
			return int(binary.NativeEndian.Uint32(msg[260:])), nil
		}
	}
}

// StderrPath is what lxc-start's standard error is written to.
func StderrPath(vmid int) string {
	return filepath.Join(host.RunPVE, fmt.Sprintf("ct-%d.stderr", vmid))
}

// Start starts a container, as PVE::LXC::vm_start does. The caller holds the
// container's lock.
func Start(vmid int, c *ctconf.Conf) error {
	if err := ApplyPending(vmid, c); err != nil {
		return err
	}
	if err := WriteConfig(vmid, c); err != nil {
		return err
	}
	if err := checkBridges(c); err != nil {
		return err
	}
	m, err := watch()
	if err != nil {
		return host.Dief("failed to connect to monitor socket: %w", err)
	}
	defer m.conn.Close()
	if err := os.Remove(StderrPath(vmid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unit, err := StartUnit(vmid)
	if err != nil {
		return host.Dief("command 'systemctl start pve-container@%d' failed: %w", vmid, err)
	}
	defer unit.Close()
	host.Midway()
	if err := awaitRunning(vmid, m, unit); err != nil {
		printStartLog(vmid)
		return host.Dief("startup for container '%d' failed", vmid)
	}
	if host.Version() < ctconf.PVE91 {
		return nil
	}
	if !lasts(vmid) {
		// No command of Proxmox's is so quick that it would see lxc-start still.
		if err := AwaitEnd(vmid, startLimit); err != nil {
			return err
		}
		return host.Dief("unable to get PID for CT %d (not running?)", vmid)
	}
	return nil
}

// grace is the time that passes in Proxmox between the state RUNNING and the
// look for the first process, at least.
const grace = 20 * time.Millisecond

// lasts says whether the container's first process is there after that.
func lasts(vmid int) bool {
	pid, err := InitPid(vmid)
	if err != nil {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(grace.Milliseconds()))
	return err == nil && n == 0
}

// awaitRunning waits for the state RUNNING. PVE does not see the unit's end,
// and waits the whole limit for a container that says nothing.
func awaitRunning(vmid int, m *monitord, unit *Unit) error {
	if err := m.conn.SetDeadline(time.Now().Add(host.Limit(startLimit))); err != nil {
		return err
	}
	if !host.Systemd() {
		go func() {
			unit.Wait()
			_ = m.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // for what monitord has still to say
		}()
	}
	// lxc-monitord may still have the end of the container's last life to tell.
	begun := false
	for {
		state, err := m.state(vmid)
		switch {
		case err != nil:
			return err
		case state == starting:
			begun = true
		case state == running:
			return nil
		case state == stopped && begun:
			return errors.New("stopped")
		}
	}
}

var (
	startPrefix = regexp.MustCompile(`^lxc-start: [^:]*: (?:\S+\.c: )?`)
	startNoise  = regexp.MustCompile(`^(main: |__lxc_start: |lxc_spawn: |lxc_abort: |.*Failed to (spawn|handle)|.*To get more details|.*Additional information|.*The container failed to start|.*Received container state|lxccontainer: |wait_on_daemonized_start: )`)
)

// printStartLog shows why lxc-start failed.
func printStartLog(vmid int) {
	f, err := os.Open(StderrPath(vmid))
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		line := startPrefix.ReplaceAllString(s.Text(), "")
		if line != "" && !startNoise.MatchString(line) {
			fmt.Println(line)
		}
	}
}

// AwaitEnd returns when lxc-start of a container has ended; at once if there is
// none.
func AwaitEnd(vmid int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		c, err := connect(vmid)
		if err != nil {
			return nil
		}
		if err := await(c, deadline); err != nil {
			return err
		}
		// Its connections may end before its socket does.
	}
}

// await waits for the end of a connection to lxc-start, and closes it.
func await(c *net.UnixConn, deadline time.Time) error {
	defer c.Close()
	if err := c.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		return host.Dief("container did not stop")
	}
	return nil // EOF, or reset
}

// Stop kills the container and waits for lxc-start's end.
func Stop(vmid int) error { return end(vmid, time.Minute, "--kill") }

// Shutdown asks the container to end. With force it is killed after timeout.
func Shutdown(vmid int, timeout int, force bool) error {
	args := []string{"--timeout", strconv.Itoa(timeout)}
	if !force {
		args = append([]string{"--nokill"}, args...)
	}
	return end(vmid, 5*time.Second, args...)
}

func end(vmid int, wait time.Duration, args ...string) error {
	if !Running(vmid) {
		return nil
	}
	argv := append([]string{"lxc-stop", "-n", strconv.Itoa(vmid)}, args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout // a worker's
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return err
		}
		fmt.Printf("command '%s' failed: exit code %d\n", strings.Join(argv, " "), exit.ExitCode())
		if Running(vmid) && args[0] == "--nokill" {
			return host.Dief("container did not stop")
		}
	}
	return AwaitEnd(vmid, wait)
}

package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/pmxcfs"
)

// Daemon is everything that runs on a node between the commands: the cluster
// file system and, where systemd has them not, lxc-monitord and the units
// pve-container@VMID. It says "ready" on its standard output and ends with its
// standard input.
func Daemon() error {
	d := &daemon{units: map[int]*unit{}}
	cluster, err := pmxcfs.Mount(host.EtcPVE, host.Node(), host.Quorate, host.ClusterFault)
	if err != nil {
		return err
	}
	defer func() { _ = cluster.Unmount() }()
	if host.Systemd() {
		ready()
		return nil
	}
	monitord := exec.Command("/usr/libexec/lxc/lxc-monitord", "--daemon")
	monitord.Env = environment
	monitord.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := monitord.Start(); err != nil {
		return err
	}
	defer func() {
		_ = monitord.Process.Kill()
		_ = monitord.Wait() // killed
	}()
	listener, err := net.Listen("unix", lxc.UnitSocket)
	if err != nil {
		return err
	}
	defer listener.Close()
	go d.serve(listener)
	ready()
	return nil
}

// ready says so, and returns when the test is over.
func ready() {
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // EOF
}

var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8"}

type daemon struct {
	mu    sync.Mutex
	units map[int]*unit
}

// unit is one run of lxc-start.
type unit struct {
	ended chan struct{}
}

func (d *daemon) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go d.handle(conn)
	}
}

func (d *daemon) handle(conn net.Conn) {
	defer conn.Close()
	var r lxc.UnitRequest
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return
	}
	out := json.NewEncoder(conn)
	u, err := d.start(r.VMID)
	if err != nil {
		_ = out.Encode(lxc.UnitReply{Error: err.Error()})
		return
	}
	if out.Encode(lxc.UnitReply{}) != nil {
		return
	}
	<-u.ended
	_ = out.Encode(lxc.UnitReply{})
}

// start is pve-container@.service: `lxc-start -F -n VMID` with null standard
// streams, its errors in a file. A unit that is active is left as it is.
func (d *daemon) start(vmid int) (*unit, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if u, ok := d.units[vmid]; ok {
		return u, nil
	}
	stderr, err := os.OpenFile(lxc.StderrPath(vmid), os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	cmd := exec.Command("lxc-start", "-F", "-n", strconv.Itoa(vmid))
	cmd.Env = environment
	cmd.Dir = "/"
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	u := &unit{ended: make(chan struct{})}
	d.units[vmid] = u
	go d.watch(vmid, u, cmd)
	return u, nil
}

// watch waits for lxc-start's end, and starts it again when the container asked
// to reboot (pve-container-stop-wrapper).
func (d *daemon) watch(vmid int, u *unit, cmd *exec.Cmd) {
	_ = cmd.Wait() // lxc-start's status tells nothing
	d.mu.Lock()
	delete(d.units, vmid)
	d.mu.Unlock()
	close(u.ended)
	err := os.Remove(lxc.RebootFile(vmid))
	if err == nil {
		_, err = d.start(vmid)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(os.Stderr, "pve-container@"+filepath.Base(host.Dir(vmid))+":", err)
	}
}

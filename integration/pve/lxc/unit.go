package lxc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// Unit is a connection to the node's service manager, which has one
// pve-container@VMID. It is empty where that is systemd.
type Unit struct {
	conn net.Conn
	in   *json.Decoder
}

// UnitSocket is where the node's daemon takes requests.
var UnitSocket = filepath.Join(host.Control, "systemd.sock")

// UnitRequest asks for a unit's start; the answers are UnitReply when it was
// started and when it has ended.
type UnitRequest struct {
	VMID int `json:"vmid"`
}

// UnitReply is an answer of the daemon.
type UnitReply struct {
	Error string `json:"error,omitempty"`
}

// StartUnit is `systemctl start pve-container@VMID`.
func StartUnit(vmid int) (*Unit, error) {
	if host.Systemd() {
		return &Unit{}, run("systemctl", "start", unitName(vmid))
	}
	conn, err := net.Dial("unix", UnitSocket)
	if err != nil {
		return nil, err
	}
	u := &Unit{conn: conn, in: json.NewDecoder(conn)}
	if err := json.NewEncoder(conn).Encode(UnitRequest{VMID: vmid}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := u.reply(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return u, nil
}

func (u *Unit) reply() error {
	var r UnitReply
	if err := u.in.Decode(&r); err != nil {
		return err
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// Wait returns when the unit has ended.
func (u *Unit) Wait() { _ = u.reply() }

// Close gives up the connection; the unit runs on.
func (u *Unit) Close() error {
	if u.conn == nil {
		return nil
	}
	return u.conn.Close()
}

func unitName(vmid int) string { return fmt.Sprintf("pve-container@%d.service", vmid) }

// StopUnit is pve-container-stop-wrapper: systemd runs it whenever a unit stops,
// also when lxc-start has ended by itself, perhaps to be started again.
func StopUnit(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: pve-container-stop-wrapper VMID")
	}
	vmid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	switch err := os.Remove(RebootFile(vmid)); {
	case err == nil:
		return run("systemctl", "--no-block", "restart", unitName(vmid))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case !Running(vmid):
		return nil
	}
	return run("lxc-stop", "-n", args[0])
}

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Fault makes a command fail, or be slow.
type Fault struct {
	// Command are its first words, such as "pct start". Hooks are "hook pre-start";
	// what is done to files of the cluster is "pmxcfs create", "pmxcfs write", "pmxcfs rename"
	// and "pmxcfs unlink", with the path.
	Command string `json:"command"`
	Times   int    `json:"times,omitempty"` // how often; 0: always
	DelayMS int    `json:"delay_ms,omitempty"`
	Hold    string `json:"hold,omitempty"` // a FIFO: it hangs until somebody opens that for writing
	Stdout  string `json:"stdout,omitempty"`
	Stderr  string `json:"stderr,omitempty"`
	RC      int    `json:"rc,omitempty"`
	Kill    string `json:"kill,omitempty"`  // SIGKILL: before, middle, after; parent: pct, while its worker works on
	Errno   int    `json:"errno,omitempty"` // of pmxcfs
	Gate    string `json:"gate,omitempty"`  // a FIFO: in the middle, wait until who has opened it for writing closes it
	Error   string `json:"error,omitempty"` // a recorded error by name: no-quorum, locked, lock-timeout, storage-full, exists, no-conf, start-failed, no-pid
}

// Call is one call of a command.
type Call struct {
	Argv []string `json:"argv"`
	RC   int      `json:"rc"`
	MS   float64  `json:"ms"`
}

func faultsPath() string { return filepath.Join(Control, "faults") }

// WriteFaults replaces all faults.
func WriteFaults(faults []Fault) error {
	data, err := json.Marshal(faults)
	if err != nil {
		return err
	}
	return control(func() error { return os.WriteFile(faultsPath(), data, 0o644) })
}

// control runs f alone of all that use the control files.
func control(f func() error) error {
	lock, err := os.OpenFile(filepath.Join(Control, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	return f()
}

// TakeFault finds the fault of a command, and counts it.
func TakeFault(command []string) (fault *Fault, err error) {
	if _, err := os.Stat(faultsPath()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	err = control(func() error {
		data, err := os.ReadFile(faultsPath())
		if err != nil {
			return err
		}
		var faults []Fault
		if err := json.Unmarshal(data, &faults); err != nil {
			return err
		}
		line := strings.Join(command, " ") + " "
		i := slices.IndexFunc(faults, func(f Fault) bool { return strings.HasPrefix(line, f.Command+" ") })
		if i < 0 {
			return nil
		}
		found := faults[i]
		fault = &found
		if found.Times == 0 {
			return nil
		}
		if faults[i].Times--; faults[i].Times == 0 {
			faults = slices.Delete(faults, i, i+1)
		}
		if data, err = json.Marshal(faults); err != nil {
			return err
		}
		return os.WriteFile(faultsPath(), data, 0o644)
	})
	return fault, err
}

// ClusterFault lets the fault of an operation of the cluster file system take place:
// 0 if there is none.
func ClusterFault(operation, path string) syscall.Errno {
	f, err := TakeFault([]string{"pmxcfs", operation, path})
	if err != nil {
		return syscall.EIO
	}
	if f == nil {
		return 0
	}
	time.Sleep(time.Duration(f.DelayMS) * time.Millisecond)
	return syscall.Errno(f.Errno)
}

// LogCall records a call.
func LogCall(c Call) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(Control, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	return errors.Join(err, f.Close())
}

// current is the fault of this process.
var current *Fault

// Begin lets the fault of a command take place, as far as it does at its
// beginning.
func Begin(command []string) error {
	f, err := TakeFault(command)
	if err != nil || f == nil {
		return err
	}
	current = f
	if f.DelayMS > 0 {
		time.Sleep(time.Duration(f.DelayMS) * time.Millisecond)
	}
	if f.Hold != "" {
		hold, err := os.Open(f.Hold)
		if err != nil {
			return err
		}
		_ = hold.Close() // nothing was read
	}
	if f.Kill == "before" {
		die()
	}
	if f.Error != "" {
		return f.recorded(command)
	}
	if f.RC != 0 || f.Stderr != "" {
		fmt.Print(f.Stdout)
		return &Die{Text: strings.TrimSuffix(f.Stderr, "\n"), Code: f.RC}
	}
	return nil
}

// Midway is the point of a command between its first effect and its last.
func Midway() {
	if current == nil {
		return
	}
	if gate := current.Gate; gate != "" {
		current.Gate = "" // once
		_, _ = os.ReadFile(gate)
	}
	if current.Kill == "middle" {
		die()
	}
}

// Forked is the point at which the worker has been started.
func Forked() {
	if current != nil && current.Kill == "parent" {
		die()
	}
}

// Finish is the point after the last effect.
func Finish() {
	if current != nil && current.Kill == "after" {
		die()
	}
}

// die ends the process as an outside kill would.
func die() {
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {} // the signal comes
}

// StorageFull says whether allocations are to fail.
func StorageFull() bool { return current != nil && current.Error == "storage-full" }

// recorded are the errors of the genuine tools, by name.
func (f *Fault) recorded(command []string) error {
	id := "0"
	if len(command) > 2 {
		id = command[2]
	}
	switch f.Error {
	case "no-quorum":
		return Dief("cluster not ready - no quorum?")
	case "locked":
		return Dief("CT is locked (backup)")
	case "lock-timeout":
		code, out := 255, os.Stdout // where a worker's standard error is
		if command[1] == "set" {
			code, out = 4, os.Stderr
		}
		fmt.Fprint(out, "trying to acquire lock...")
		return DieCode(code, "can't lock file '%s' - got timeout", filepath.Join(LockDir, "pve-config-"+id+".lock"))
	case "exists":
		return DieCode(2, "CT %s already exists on node '%s'", id, Node())
	case "no-conf":
		code := 2
		if command[1] == "start" {
			code = 255
		}
		return DieCode(code, "Configuration file 'nodes/%s/lxc/%s.conf' does not exist", Node(), id)
	case "start-failed":
		fmt.Println(`run_buffer: 571 Script exited with status 1`)
		fmt.Printf("lxc_init: 845 Failed to run lxc.hook.pre-start for container %q\n", id)
		return Dief("startup for container '%s' failed", id)
	case "no-pid":
		return Dief("unable to get PID for CT %s (not running?)", id)
	case "down":
		fmt.Fprint(os.Stderr, strings.Repeat("ipcc_send_rec[1] failed: Connection refused\n", 3))
		return DieCode(111, "Unable to load access control list: Connection refused")
	case "storage-full":
		return nil // when it allocates
	}
	return Dief("stand-in: no recorded error %q", f.Error)
}

const faultVariable = "PVE_STANDIN_FAULT"

// FaultEnv hands the fault of this process to its worker.
func FaultEnv() string {
	if current == nil {
		return faultVariable + "="
	}
	f := *current
	f.DelayMS = 0
	data, _ := json.Marshal(f) // strings and numbers
	return faultVariable + "=" + string(data)
}

// ResumeFault takes it in the worker.
func ResumeFault() {
	var f Fault
	if json.Unmarshal([]byte(os.Getenv(faultVariable)), &f) == nil {
		current = &f
	}
}

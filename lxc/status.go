package lxc

import "fmt"

// Status is where a process, or a container by its init process, is in its
// life.
type Status string

// The statuses of the runtime-spec, with paused, and deleted for what is only
// still known to whoever holds it.
const (
	Created Status = "created"
	Running Status = "running"
	Paused  Status = "paused"
	Stopped Status = "stopped"
	Deleted Status = "deleted"
)

// action is what is done to a process.
type action string

const (
	actStart  action = "start"
	actPause  action = "pause"
	actResume action = "resume"
	actUpdate action = "update"
	actExec   action = "exec in"
	actDelete action = "delete"
	actExit   action = "exit" // the process has ended
)

// transitions is the whole truth about the life of a process: what may be done
// in which status, and what it then is. The init process of a container knows
// all actions, an exec only start, exit and delete. Created → deleted kills
// the process first.
var transitions = map[Status]map[action]Status{
	Created: {actStart: Running, actUpdate: Created, actExec: Created, actDelete: Deleted, actExit: Stopped},
	Running: {actPause: Paused, actUpdate: Running, actExec: Running, actExit: Stopped},
	Paused:  {actResume: Running, actUpdate: Paused, actExit: Stopped},
	Stopped: {actDelete: Deleted},
	Deleted: {},
}

// StatusError is the refusal of an action in the wrong status. It is of no
// errdefs class, as the errors of the runc shim, which clients know.
type StatusError struct {
	Action string
	Status Status
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("cannot %s a %s process", e.Action, e.Status)
}

// next returns the status after the action, or why there is none.
func (s Status) next(a action) (Status, error) {
	if n, ok := transitions[s][a]; ok {
		return n, nil
	}
	return s, &StatusError{Action: string(a), Status: s}
}

// Package bootstrap is the start verb of the shim: it finds or starts the
// process that serves the container's group, and answers with its address, in
// the form in which containerd asked.
//
// containerd 2.3 and later write BootstrapParams (protobuf) to stdin and read
// a BootstrapResult; older ones write the runtime options, or nothing, and
// read the address alone.
package bootstrap

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxInput bounds what is read from stdin, in bytes.
const maxInput = 10 << 20

// Params are what containerd gives in either form.
type Params struct {
	ID           string
	Namespace    string
	Address      string // of containerd's gRPC API
	TTRPCAddress string // where the events go
	Debug        bool
}

// request is what containerd asked for, in whichever form.
type request struct {
	Params
	socketDir string
	runc      *options.Options // nil if there are none
	// answer encodes the address for this containerd.
	answer func(address string) ([]byte, error)
}

// groupAnnotations say which containers share a shim; the first that is there
// counts. The second is the one of the runc shim, the third a pod's.
var groupAnnotations = []string{
	"io.containerd.nexcage.v2.group",
	"io.containerd.runc.v2.group",
	"io.kubernetes.cri.sandbox-id",
}

// Start serves the start verb, in the bundle as working directory.
func Start(ctx context.Context, p Params, stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	r, err := parse(p, input)
	if err != nil {
		return err
	}
	group, err := groupOf(p.ID)
	if err != nil {
		return err
	}
	address, answered, err := r.find(ctx, group)
	if err != nil {
		return err
	}
	answer, err := r.answer(address)
	if err != nil {
		return err
	}
	if _, err = stdout.Write(answer); err != nil {
		return err
	}
	return answered()
}

// parse tells the two forms apart. Runtime options can decode as
// BootstrapParams by accident, so these must name the same container as the
// flags do.
func parse(p Params, input []byte) (*request, error) {
	var params bootapi.BootstrapParams
	if err := proto.Unmarshal(input, &params); err == nil && params.InstanceID == p.ID && params.Namespace == p.Namespace {
		return parseParams(p, &params)
	}
	r := &request{Params: p, answer: func(address string) ([]byte, error) { return []byte(address), nil }}
	var opts anypb.Any
	if err := proto.Unmarshal(input, &opts); err != nil {
		return nil, fmt.Errorf("runtime options on stdin: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !typeurl.Is(&opts, (*options.Options)(nil)) {
		return r, nil // Create gets them, too, and decides
	}
	r.runc = &options.Options{}
	if err := typeurl.UnmarshalTo(&opts, r.runc); err != nil {
		return nil, fmt.Errorf("runtime options on stdin: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

func parseParams(p Params, params *bootapi.BootstrapParams) (*request, error) {
	r := &request{Params: p, socketDir: params.GetSocketDir(), answer: answerResult}
	r.Debug = p.Debug || params.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG
	r.Address = cmp.Or(params.ContainerdGrpcAddress, p.Address)
	r.TTRPCAddress = cmp.Or(params.ContainerdTtrpcAddress, p.TTRPCAddress)
	var runc options.Options
	found, err := params.FindExtension(&runc)
	if err != nil {
		return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if found {
		r.runc = &runc
	}
	return r, nil
}

// answerResult says version 3: further containers of a pod come to the running
// shim without another start.
func answerResult(address string) ([]byte, error) {
	return proto.Marshal(&bootapi.BootstrapResult{Version: 3, Address: address, Protocol: "ttrpc"})
}

// groupOf returns the group of the container in the working directory.
func groupOf(id string) (string, error) {
	b, err := os.ReadFile("config.json")
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &spec); err != nil {
			return "", fmt.Errorf("config.json: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	for _, key := range groupAnnotations {
		if group := spec.Annotations[key]; group != "" {
			return group, nil
		}
	}
	return id, nil
}

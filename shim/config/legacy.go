package config

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
)

// legacyOptions are the options of containerd's first runtime for Linux. Clients of
// 1.6 and 1.7 send them to every runtime that is not runc's, for the owner of
// a user namespace's pipes (containerd.WithUIDOwner) and the like.
const legacyOptions = "containerd.linux.runc.CreateOptions"

func isLegacy(url string) bool { return url[strings.LastIndexByte(url, '/')+1:] == legacyOptions }

// fromLegacy reads CreateOptions, whose package ended with containerd 1.7
// (runtime/linux/runctypes/runc.proto there), into the options that took their place.
func fromLegacy(value []byte) (*options.Options, error) {
	o := &options.Options{}
	for len(value) > 0 {
		field, kind, n := protowire.ConsumeTag(value)
		if n < 0 {
			return nil, malformedLegacy(protowire.ParseError(n))
		}
		value = value[n:]
		switch kind {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(value); n < 0 {
				return nil, malformedLegacy(protowire.ParseError(n))
			}
			if err := legacyNumber(o, field, v); err != nil {
				return nil, err
			}
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(value); n < 0 {
				return nil, malformedLegacy(protowire.ParseError(n))
			}
			if err := legacyText(o, field, string(v)); err != nil {
				return nil, err
			}
		default:
			return nil, malformedLegacy(fmt.Errorf("field %d has the wire type %d", field, kind))
		}
		value = value[n:]
	}
	return o, nil
}

func legacyNumber(o *options.Options, field protowire.Number, v uint64) error {
	switch {
	case v == 0: // as if it were not there
	case field == 1:
		o.NoPivotRoot = true
	case field == 8:
		o.NoNewKeyring = true
	case field == 10:
		o.IoUid = uint32(v)
	case field == 11:
		o.IoGid = uint32(v)
	default:
		return unknownLegacy(field)
	}
	return nil
}

func legacyText(o *options.Options, field protowire.Number, v string) error {
	switch {
	case v == "":
	case field == 9:
		o.ShimCgroup = v
	case field == 12:
		o.CriuWorkPath = v
	case field == 13:
		o.CriuImagePath = v
	default:
		return unknownLegacy(field)
	}
	return nil
}

// legacyNames are the fields that nothing takes the place of: of a checkpoint, and
// the terminal, which is in the request.
var legacyNames = map[protowire.Number]string{
	2: "open_tcp", 3: "external_unix_sockets", 4: "terminal", 5: "file_locks", 6: "empty_namespaces", 7: "cgroups_mode",
}

func unknownLegacy(field protowire.Number) error {
	name := legacyNames[field]
	if name == "" {
		name = fmt.Sprintf("field %d", field)
	}
	return fmt.Errorf("runtime options %s: %s is not understood: %w", legacyOptions, name, errdefs.ErrInvalidArgument)
}

func malformedLegacy(err error) error {
	return fmt.Errorf("runtime options %s: %w: %w", legacyOptions, err, errdefs.ErrInvalidArgument)
}

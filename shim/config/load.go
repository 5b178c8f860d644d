package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// maxSize bounds what is read as configuration, in bytes.
const maxSize = 1 << 20

// Load reads a file; if there is none, it returns the defaults. What the file
// says wrong is an errdefs.ErrInvalidArgument that names the key and the
// allowed values.
func Load(path string) (*Config, error) {
	c, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	return c, err
}

// read is Load of a file that must exist.
func read(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return parse(path, text)
}

// parse makes a configuration of TOML text; name is its origin, for errors.
func parse(name string, text []byte) (*Config, error) {
	c, err := decode(text)
	if err == nil {
		c.complete()
		err = c.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", name, err)
	}
	return c, nil
}

func decode(text []byte) (*Config, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("longer than %d bytes: %w", maxSize, errdefs.ErrInvalidArgument)
	}
	c := defaults()
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(c)
	if err != nil {
		return nil, explain(err)
	}
	return c, nil
}

// explain names line and key of a decoder's error.
func explain(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		errs := make([]error, len(unknown.Errors))
		for i := range unknown.Errors {
			errs[i] = unknownKey(&unknown.Errors[i])
		}
		return errors.Join(errs...)
	}
	var bad *toml.DecodeError
	if !errors.As(err, &bad) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	line, _ := bad.Position()
	if len(bad.Key()) == 0 {
		return fmt.Errorf("line %d: %w: %w", line, err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("line %d: %s: %w: %w", line, strings.Join(bad.Key(), "."), err, errdefs.ErrInvalidArgument)
}

func unknownKey(e *toml.DecodeError) error {
	line, _ := e.Position()
	key := e.Key()
	table, allowed := known(key)
	return fmt.Errorf("line %d: %s: unknown key, %s has %s: %w",
		line, strings.Join(key, "."), table, strings.Join(allowed, ", "), errdefs.ErrInvalidArgument)
}

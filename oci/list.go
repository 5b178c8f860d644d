package oci

import (
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// maxListed is the highest number in a list of CPUs or memory nodes. Linux
// can be built for 8192 CPUs, and for 1024 nodes.
const maxListed = initop.MaxCPUs - 1

// checkList checks a list of CPUs or memory nodes in the format of cpuset(7),
// as in 0-3,7. An empty one is no list, and not wrong.
func checkList(path, list string) error {
	if list == "" {
		return nil
	}
	for _, part := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, ok := listed(first)
		b := a
		if ok && isRange {
			b, ok = listed(last)
		}
		if !ok || b < a {
			return invalid(path, list, "is not a list of numbers and ranges, as in 0-3,7")
		}
	}
	return nil
}

func listed(s string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n <= maxListed
}

// parseList returns the numbers of a list that checkList found right, each
// once, in order.
func parseList(list string) (numbers []int) {
	if list == "" {
		return nil
	}
	var in [maxListed + 1]bool
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, _ := listed(first)
		b, _ := listed(last)
		for n := a; n <= b; n++ {
			in[n] = true
		}
	}
	for n, is := range in {
		if is {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

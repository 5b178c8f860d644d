package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Weights of the block controllers: what BFQ and the io controller of today
// take, and what CFQ took.
const minWeight, maxWeight = 10, 1000

func checkBlockIO(path string, r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	path += ".blockIO"
	if err := checkWeight(path+".weight", b.Weight); err != nil {
		return err
	}
	if err := checkWeight(path+".leafWeight", b.LeafWeight); err != nil {
		return err
	}
	for i, d := range b.WeightDevice {
		if err := checkWeightDevice(at(path+".weightDevice", i), d); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		name string
		list []specs.LinuxThrottleDevice
	}{
		{".throttleReadBpsDevice", b.ThrottleReadBpsDevice},
		{".throttleWriteBpsDevice", b.ThrottleWriteBpsDevice},
		{".throttleReadIOPSDevice", b.ThrottleReadIOPSDevice},
		{".throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice},
	} {
		for i, d := range l.list {
			if err := checkDeviceNumbers(at(path+l.name, i), d.Major, d.Minor); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkWeightDevice(path string, d specs.LinuxWeightDevice) error {
	if d.Weight == nil && d.LeafWeight == nil {
		return invalid(path, nil, "has neither weight nor leafWeight")
	}
	if err := checkDeviceNumbers(path, d.Major, d.Minor); err != nil {
		return err
	}
	if err := checkWeight(path+".weight", d.Weight); err != nil {
		return err
	}
	return checkWeight(path+".leafWeight", d.LeafWeight)
}

func checkWeight(path string, w *uint16) error {
	if v := value(w); v != 0 && (v < minWeight || v > maxWeight) {
		return invalid(path, v, "is not between %d and %d", minWeight, maxWeight)
	}
	return nil
}

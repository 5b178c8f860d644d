package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// series are the samples of one measurement, by runtime.
type series struct{ samples map[string][]float64 }

// row is a line of the table.
type row struct {
	name   string
	unit   string
	target string
	series *series
	note   string // instead of figures
}

// series adds a row of milliseconds.
func (b *bench) series(name, target string) *series {
	return b.seriesOf(row{name: name, unit: "ms", target: target})
}

func (b *bench) seriesOf(r row) *series {
	r.series = &series{samples: map[string][]float64{}}
	b.rows = append(b.rows, r)
	return r.series
}

func (b *bench) note(name, note, target string) {
	b.rows = append(b.rows, row{name: name, note: note, target: target})
}

func (s *series) add(rt harness.Runtime, value float64) {
	s.samples[rt.Name] = append(s.samples[rt.Name], value)
}

// time adds how long f took.
func (s *series) time(rt harness.Runtime, f func() error) error {
	start := time.Now()
	err := f()
	s.add(rt, float64(time.Since(start))/float64(time.Millisecond))
	return err
}

// median of samples; of an even number the mean of the two in the middle.
func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	if len(sorted) == 0 {
		return 0
	}
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func (s *series) cell(name string) string {
	samples := s.samples[name]
	switch len(samples) {
	case 0:
		return "–"
	case 1:
		return number(samples[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(median(samples)), number(slices.Min(samples)), number(slices.Max(samples)))
}

func (s *series) ratio(name string) string {
	reference := median(s.samples["runc-shim"])
	if reference == 0 || len(s.samples[name]) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", median(s.samples[name])/reference)
}

func number(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

func (b *bench) print() {
	fmt.Println("| what | unit | runc shim, crun | nexcage, lxc | nexcage, crun | ratio lxc | ratio crun | target |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, r := range b.rows {
		if r.note != "" {
			fmt.Printf("| %s | %s | | | | | | %s |\n", r.name, r.note, r.target)
			continue
		}
		s := r.series
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.name, r.unit, s.cell("runc-shim"), s.cell("lxc"), s.cell("crun"),
			s.ratio("lxc"), s.ratio("crun"), r.target)
	}
}

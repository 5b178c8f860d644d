package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// series are the samples of one measurement, by runtime.
type series struct{ samples map[string][]float64 }

// row is a line of the table.
type row struct {
	name   string
	unit   string
	target target
	series *series
}

// limit is a bound of a figure.
type limit struct {
	value float64
	least bool // the figure is to be the bound or more
}

func atMost(v float64) *limit  { return &limit{value: v} }
func atLeast(v float64) *limit { return &limit{value: v, least: true} }

func (l *limit) String() string {
	sign := "≤"
	if l.least {
		sign = "≥"
	}
	return fmt.Sprintf("%s %.2f", sign, l.value)
}

func (l *limit) met(v float64) bool { return v == l.value || (v > l.value) == l.least }

// target is what each backend is to reach: nil if there is no demand.
type target struct {
	lxc, crun *limit
	absolute  bool // of the figure itself, not of the ratio
}

// series adds a row of milliseconds.
func (b *bench) series(name string, t target) *series {
	return b.seriesOf(row{name: name, unit: "ms", target: t})
}

func (b *bench) seriesOf(r row) *series {
	r.series = &series{samples: map[string][]float64{}}
	b.rows = append(b.rows, r)
	return r.series
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

// ratio is against the runc shim; ok is false without figures of both.
func (s *series) ratio(name string) (ratio float64, ok bool) {
	reference := median(s.samples["runc-shim"])
	if reference == 0 || len(s.samples[name]) == 0 {
		return 0, false
	}
	return median(s.samples[name]) / reference, true
}

func (s *series) ratioCell(name string) string {
	if ratio, ok := s.ratio(name); ok {
		return fmt.Sprintf("%.2f", ratio)
	}
	return "–"
}

// verdict says whether a backend has reached its target.
func (r *row) verdict(name string, l *limit) string {
	if l == nil || len(r.series.samples[name]) == 0 {
		return ""
	}
	figure := median(r.series.samples[name])
	if !r.target.absolute {
		var ok bool
		if figure, ok = r.series.ratio(name); !ok {
			return ""
		}
		figure = math.Round(figure*100) / 100 // as it is printed
	}
	verdict := "missed"
	if l.met(figure) {
		verdict = "met"
	}
	return fmt.Sprintf("%s %s: %s", name, l, verdict)
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
		s := r.series
		verdicts := strings.Trim(r.verdict("lxc", r.target.lxc)+"; "+r.verdict("crun", r.target.crun), "; ")
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.name, r.unit, s.cell("runc-shim"), s.cell("lxc"), s.cell("crun"),
			s.ratioCell("lxc"), s.ratioCell("crun"), verdicts)
	}
}

package cgroup

import (
	"fmt"
	"os"
	"testing"
)

func BenchmarkCreateAndRemove(b *testing.B) {
	h, err := thisHost()
	if err != nil {
		b.Fatal(err)
	}
	for i := range b.N {
		g, err := h.create(fmt.Sprintf("nexcage-cgroup-bench-%d-%d", os.Getpid(), i))
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHide(b *testing.B) {
	for range b.N {
		if err := Hide(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	g, err := Of(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFirstStats(b *testing.B) {
	g, err := Of(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		g.stat = nil
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

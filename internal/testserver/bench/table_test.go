package main

import (
	"bytes"
	"regexp"
	"testing"
)

// TestRows runs every row that is measured here with next to no time and numbers: that the figures
// can be had is tested, not what they are.
func TestRows(t *testing.T) {
	benchmark := regexp.MustCompile(`(?m)^Benchmark[^\s/]+/\S+-\d+\t\d+(\t\S+ \S+)+$`)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if row.name == "sockets" || row.name == "durable" {
				t.Skip("runs the library's own benchmarks")
			}
			var out bytes.Buffer
			row.run(newReport(&out, 0.001))
			switch row.name {
			case "scaling", "refusal", "upgrade": // of which no user sees a figure
			default:
				if !bytes.Contains(out.Bytes(), []byte("goal\t| ")) {
					t.Errorf("there is no goal in %s", &out)
				}
			}
			if !bytes.Contains(out.Bytes(), []byte("line\t| ")) || !benchmark.Match(out.Bytes()) {
				t.Errorf("there is no line in %s", &out)
			}
		})
	}
}

// TestKeepers holds every rival to what it is measured at: a ticket is good once.
func TestKeepers(t *testing.T) {
	g := grantsOf(1)[0]
	for name, open := range keepers {
		k := open(100, 1e9)
		ticket := k.mint(&g)
		if user, ok := k.take(ticket); !ok || user != g.UserID {
			t.Errorf("%s: a good ticket gave %q, %v", name, user, ok)
		}
		if _, ok := k.take(ticket); ok {
			t.Errorf("%s: a ticket was good twice", name)
		}
		k.close()
	}
}

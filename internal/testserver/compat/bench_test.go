package compat

import (
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// BenchmarkEcho echoes 16 kB messages through a bare and through a guarded
// socket of each library by turns, and reports the guarded one's throughput as a
// share of the bare one's: 0.97 at least.
func BenchmarkEcho(b *testing.B) {
	for _, lib := range libraries {
		b.Run(lib.name, func(b *testing.B) {
			a := newApp(b, lib.echo, appOptions{})
			bare := httptest.NewServer(lib.echo)
			defer bare.Close()
			guarded := benchSocket(b, a.url(b, a.session(), "u"))
			direct := benchSocket(b, "ws"+bare.URL[len("http"):])
			msg := make([]byte, 16<<10)
			var times [2][]time.Duration
			for i := 0; b.Loop(); i++ {
				for j := range 2 {
					which := (i + j) % 2
					times[which] = append(times[which],
						echoes(b, []*gorilla.Conn{direct, guarded}[which], msg, 20))
				}
			}
			b.ReportMetric(float64(median(times[0]))/float64(median(times[1])), "of-bare")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchSocket(b *testing.B, url string) *gorilla.Conn {
	d := gorilla.Dialer{WriteBufferSize: 1 << 16}
	c, _, err := d.Dial(url, nil)
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	return c
}

func echoes(b *testing.B, c *gorilla.Conn, msg []byte, n int) time.Duration {
	begin := time.Now()
	for range n {
		if err := c.WriteMessage(gorilla.BinaryMessage, msg); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.ReadMessage(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begin)
}

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

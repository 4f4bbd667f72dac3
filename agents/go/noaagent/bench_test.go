package noaagent_test

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

// BenchmarkEcho is the cost of one execution from call to result, with many at once.
func BenchmarkEcho(b *testing.B) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	r := start(b, nil)
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := fmt.Sprint(n.Add(1))
			req := agenttest.Request(b, id, "echo", object{"n": id})
			stream, err := r.Client.Execute(b.Context(), req)
			if err != nil {
				b.Error(err)
				return
			}
			agenttest.Drain(b, stream)
		}
	})
}

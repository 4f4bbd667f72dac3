package noaagent

import (
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// What one stream may have waiting. A client that reads slower than the work reports loses the oldest observations.
const (
	maxFeedMessages = 256
	maxFeedBytes    = 1 << 20
)

// feed is the bounded queue of observations of one stream. Whoever pushes never waits.
type feed struct {
	wake chan struct{}

	mu    sync.Mutex
	queue []*agentpb.ExecuteResponse
	bytes int
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1)} }

func (f *feed) push(m *agentpb.ExecuteResponse) {
	f.mu.Lock()
	f.queue = append(f.queue, m)
	f.bytes += proto.Size(m)
	for len(f.queue) > 1 && (len(f.queue) > maxFeedMessages || f.bytes > maxFeedBytes) {
		f.drop()
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pop returns the oldest observation, or nil.
func (f *feed) pop() *agentpb.ExecuteResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) == 0 {
		return nil
	}
	return f.drop()
}

func (f *feed) drop() *agentpb.ExecuteResponse {
	m := f.queue[0]
	f.queue[0] = nil
	f.queue = f.queue[1:]
	f.bytes -= proto.Size(m)
	return m
}

package noaagent

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// What one stream may have waiting. A client that reads slower than the work reports loses the oldest observations.
const (
	maxFeedMessages = 256
	maxFeedBytes    = 1 << 20
)

// How long a flood of observations waits for a client that reads nothing.
const feedPatience = 2 * time.Second

// feed is the bounded queue of observations of one stream. Whoever pushes never waits.
type feed struct {
	wake chan struct{} // something was pushed
	room chan struct{} // half of the queue is free again, or nobody reads any more

	mu    sync.Mutex
	queue []*agentpb.ExecuteResponse
	bytes int
	stuck bool // waiting for room was in vain; until something is popped
	left  bool
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1), room: make(chan struct{}, 1)} }

func (f *feed) push(m *agentpb.ExecuteResponse) {
	f.mu.Lock()
	f.queue = append(f.queue, m)
	f.bytes += proto.Size(m)
	for len(f.queue) > 1 && (len(f.queue) > maxFeedMessages || f.bytes > maxFeedBytes) {
		f.drop()
	}
	f.mu.Unlock()
	tell(f.wake)
}

// pop returns the oldest observation, or nil.
func (f *feed) pop() *agentpb.ExecuteResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) == 0 {
		return nil
	}
	m := f.drop()
	f.stuck = false
	if !f.full() {
		tell(f.room)
	}
	return m
}

func (f *feed) drop() *agentpb.ExecuteResponse {
	m := f.queue[0]
	f.queue[0] = nil
	f.queue = f.queue[1:]
	f.bytes -= proto.Size(m)
	return m
}

// full tells whether more than half of the queue is taken. The caller holds mu.
func (f *feed) full() bool { return len(f.queue) > maxFeedMessages/2 || f.bytes > maxFeedBytes/2 }

// crowded tells whether it is worth waiting for room.
func (f *feed) crowded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full() && !f.stuck && !f.left
}

// awaitRoom returns once the queue is at most half full, nobody reads it any more, or patience or ctx is over.
func (f *feed) awaitRoom(ctx context.Context) {
	late := time.NewTimer(feedPatience)
	defer late.Stop()
	for f.crowded() {
		select {
		case <-f.room:
		case <-ctx.Done():
			return
		case <-late.C:
			f.mu.Lock()
			f.stuck = true
			f.mu.Unlock()
		}
	}
}

// leave says that nobody reads any more.
func (f *feed) leave() {
	f.mu.Lock()
	f.left = true
	f.mu.Unlock()
	tell(f.room)
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

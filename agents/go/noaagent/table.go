package noaagent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// How long results are repeated: each for 60 s and, while they are small, the last 1,000 at whatever rate they end.
// Only a flood of large results ends earlier, so that it cannot fill the memory.
const (
	keepResultsFor   = 60 * time.Second
	keepResults      = 1000
	keepResultsBytes = 64 << 20
	resultOverhead   = 1 << 10 // what an entry takes beside its message, about
)

// table knows the executions that go on, the results of those that ended lately, and the runs that may hold things.
type table struct {
	now   func() time.Time
	begun chan struct{} // told when something new has begun

	mu       sync.Mutex
	live     map[string]*task
	results  map[string]*agentpb.ExecuteResponse
	order    []result // of results, oldest first
	bytes    int
	runs     map[string]struct{}
	draining bool
	drained  chan struct{}
}

type result struct {
	id    string
	at    time.Time
	bytes int
}

func newTable() *table {
	return &table{
		now:     time.Now,
		begun:   make(chan struct{}, 1),
		live:    map[string]*task{},
		results: map[string]*agentpb.ExecuteResponse{},
		runs:    map[string]struct{}{},
		drained: make(chan struct{}),
	}
}

// admission is what the table says to an Execute call. One of task, terminal and refusal is set.
type admission struct {
	task     *task
	feed     *feed // follows task
	joined   bool
	terminal *agentpb.ExecuteResponse
	refusal  *Fail
}

// admit joins the execution that the request names, finds its result, or starts a new task if capacity (0 is no
// limit) and closed (a reason to refuse all that is new, or "") allow it.
func (t *table) admit(base context.Context, req *agentpb.ExecuteRequest, capacity int, closed string) admission {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	if known, ok := t.live[req.GetExecutionId()]; ok {
		return admission{task: known, feed: known.follow(), joined: true}
	}
	if terminal, ok := t.results[req.GetExecutionId()]; ok {
		return admission{terminal: terminal, joined: true}
	}
	if closed == "" && t.draining {
		closed = "the agent is draining"
	}
	if closed == "" && capacity > 0 && len(t.live) >= capacity {
		closed = "all places for executions are taken"
	}
	if closed != "" {
		return admission{refusal: &Fail{Code: CodeOverloaded, Message: closed, Retryable: true, RetryAfter: time.Second}}
	}
	fresh := newTask(base, req, t.retire)
	t.live[fresh.id] = fresh
	t.runs[fresh.runID] = struct{}{}
	tell(t.begun)
	return admission{task: fresh, feed: fresh.follow()}
}

// retire turns a task that ended into a result.
func (t *table) retire(done *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, done.id)
	size := proto.Size(done.terminal) + resultOverhead
	t.results[done.id] = done.terminal
	t.order = append(t.order, result{id: done.id, at: t.now(), bytes: size})
	t.bytes += size
	t.forget()
	t.checkDrained()
}

// forget drops results that are too old, or too many and too large. The caller holds mu.
func (t *table) forget() {
	old := t.now().Add(-keepResultsFor)
	for len(t.order) > 0 {
		first := t.order[0]
		if first.at.After(old) && (len(t.order) <= keepResults || t.bytes <= keepResultsBytes) {
			return
		}
		delete(t.results, first.id)
		t.bytes -= first.bytes
		t.order = t.order[1:]
	}
}

// forgetEvery keeps an agent without work from holding results for ever.
func (t *table) forgetEvery(ctx context.Context, period time.Duration) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.mu.Lock()
			t.forget()
			t.mu.Unlock()
		}
	}
}

// find returns the task that goes on under id, or whether it ended and its result is still known.
func (t *table) find(id string) (going *task, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ended = t.results[id]
	return t.live[id], ended
}

// ofRun returns the tasks of a run that go on.
func (t *table) ofRun(runID string) []*task {
	t.mu.Lock()
	defer t.mu.Unlock()
	var tasks []*task
	for _, live := range t.live {
		if live.runID == runID {
			tasks = append(tasks, live)
		}
	}
	return tasks
}

func (t *table) inFlight() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.live)
}

// openRuns returns the runs that had executions since they were last released.
func (t *table) openRuns() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.runs))
}

// closeRun says that nothing is held for a run, unless executions of it have come meanwhile.
func (t *table) closeRun(runID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, live := range t.live {
		if live.runID == runID {
			return
		}
	}
	delete(t.runs, runID)
}

// awaitWork returns once all work that goes on has returned, or after d.
func (t *table) awaitWork(d time.Duration) {
	t.mu.Lock()
	going := slices.Collect(maps.Values(t.live))
	t.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), d)
	defer stop()
	for _, one := range going {
		wait(ctx, one.returned, d)
	}
}

// drain refuses what is new from now on. The channel is closed when nothing goes on any more.
func (t *table) drain() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	t.checkDrained()
	return t.drained
}

func (t *table) checkDrained() {
	if !t.draining || len(t.live) > 0 {
		return
	}
	select {
	case <-t.drained:
	default:
		close(t.drained)
	}
}

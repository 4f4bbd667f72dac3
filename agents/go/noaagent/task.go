package noaagent

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// How long work whose deadline has passed may take to return before its stream ends without it.
const deadlineGrace = 500 * time.Millisecond

// Longest wait that is taken from a request, so that sums of durations cannot overflow.
const maxWait = 10 * 365 * 24 * time.Hour

// task is one execution that goes on: the work, the streams that follow it, and how it ends. It ends once, with
// the work's own result or, once its context is cancelled, with the reason for that and nothing else.
type task struct {
	id, runID string
	ctx       context.Context
	cancel    context.CancelCauseFunc
	release   context.CancelFunc
	retire    func(*task)   // called once, before ended is closed
	ended     chan struct{} // the terminal message is known
	returned  chan struct{} // the work has returned

	mu        sync.Mutex
	feeds     map[*feed]struct{}
	terminal  *agentpb.ExecuteResponse
	overruled bool // terminal is not what the work came to
	timers    []*time.Timer
}

func newTask(base context.Context, req *agentpb.ExecuteRequest, retire func(*task)) *task {
	t := &task{
		id: req.GetExecutionId(), runID: req.GetRunId(), retire: retire,
		ended: make(chan struct{}), returned: make(chan struct{}), feeds: map[*feed]struct{}{},
	}
	t.ctx, t.cancel = context.WithCancelCause(base)
	t.release = func() { t.cancel(context.Canceled) }
	if req.GetDeadline() != nil {
		at := req.GetDeadline().AsTime()
		verdict := Fail{
			Code: CodeDeadlineExceeded, Message: "the deadline " + at.Format(time.RFC3339Nano) + " has passed", Retryable: true,
		}
		ctx, stop := context.WithDeadlineCause(t.ctx, at, verdict)
		t.ctx, t.release = ctx, func() { stop(); t.cancel(context.Canceled) }
		t.mu.Lock()
		defer t.mu.Unlock()
		t.abandonIn(min(time.Until(at), maxWait) + deadlineGrace)
	}
	return t
}

// abandonIn ends the task after d whether its work has returned or not. The caller holds mu.
func (t *task) abandonIn(d time.Duration) {
	t.timers = append(t.timers, time.AfterFunc(d, func() { t.end(nil) }))
}

// condemn cancels the work and gives it grace to return; of several graces the earliest end counts. It reports
// whether the task was still going on, and whether nothing had told it to end before.
func (t *task) condemn(verdict Fail, grace time.Duration) (going, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.terminal != nil {
		return false, false
	}
	first = t.ctx.Err() == nil
	t.cancel(verdict)
	t.abandonIn(grace)
	return true, first
}

// end records how the task ended; the first call counts. result may be nil when the context is cancelled.
func (t *task) end(result *agentpb.ExecuteResponse) {
	t.mu.Lock()
	if t.terminal != nil {
		t.mu.Unlock()
		return
	}
	if verdict, ok := verdictOf(t.ctx); ok {
		result, t.overruled = failed(verdict), true
	}
	t.terminal = result
	for _, timer := range t.timers {
		timer.Stop()
	}
	t.mu.Unlock()
	// Free its place before anyone can see the end, or the client's next execution might find no room.
	t.retire(t)
	t.release()
	close(t.ended)
}

// told tells whether the task ends, or has ended, for another reason than that its work is done.
func (t *task) told() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.terminal == nil {
		return t.ctx.Err() != nil
	}
	return t.overruled
}

// publish gives an observation to every stream. After the end there is nothing more to observe.
func (t *task) publish(m *agentpb.ExecuteResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.terminal != nil {
		return
	}
	for f := range t.feeds {
		f.push(m)
	}
}

// pace waits until no stream has much waiting, so that nothing of what is sent in a flood is dropped. It does not wait
// for long for a client that does not read.
func (t *task) pace(ctx context.Context) {
	t.mu.Lock()
	var crowded []*feed
	for f := range t.feeds {
		if f.crowded() {
			crowded = append(crowded, f)
		}
	}
	t.mu.Unlock()
	for _, f := range crowded {
		f.awaitRoom(ctx)
	}
}

func (t *task) follow() *feed {
	f := newFeed()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.feeds[f] = struct{}{}
	return f
}

func (t *task) unfollow(f *feed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.feeds, f)
	f.leave()
}

// run does the work and ends the task with what came of it, also when the work panics or ends its goroutine.
func (t *task) run(work func() (*agentpb.Payload, map[string]float64, error)) {
	started := time.Now()
	var output *agentpb.Payload
	var values map[string]float64
	var err error = Fail{Code: CodeInternal, Message: "the action ended its goroutine without a result"}
	defer func() {
		if p := recover(); p != nil {
			slog.Error("action panicked", "execution", t.id, "panic", p, "stack", string(debug.Stack()))
			err = Fail{Code: CodeInternal, Message: fmt.Sprintf("the action panicked: %v", p)}
		}
		if err != nil {
			t.end(failed(err))
		} else {
			t.end(completed(output, time.Since(started), values))
		}
		close(t.returned)
	}()
	if t.ctx.Err() != nil { // its deadline had passed when it came
		err = context.Cause(t.ctx)
		return
	}
	output, values, err = work()
}

func completed(output *agentpb.Payload, took time.Duration, values map[string]float64) *agentpb.ExecuteResponse {
	return &agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Completed{Completed: &agentpb.Completed{
		Output: output, Metrics: &agentpb.Metrics{WallTime: durationpb.New(took), Values: values},
	}}}
}

func failed(err error) *agentpb.ExecuteResponse {
	return &agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Failed{
		Failed: &agentpb.Failed{Failure: failureOf(err)},
	}}
}

func accepted(joined bool) *agentpb.ExecuteResponse {
	return &agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Accepted{Accepted: &agentpb.Accepted{Joined: joined}}}
}

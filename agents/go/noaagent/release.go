package noaagent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// How much longer than its deadline a release is waited for, so that a kill at the last moment is seen.
const releaseMargin = 250 * time.Millisecond

// releaseRun cancels all executions of a run, then has everything that is held for it let go. It answers when that is
// done, or when grace is over: the rest is then done after the answer.
func (a *Agent) releaseRun(ctx context.Context, runID string, verdict Fail, grace time.Duration) *agentpb.CancelResponse {
	until := time.Now().Add(grace - min(grace/10, releaseMargin))
	going, told := a.cancelRun(ctx, runID, verdict, grace)
	found, busy := a.letGo(ctx, runID, until)
	slog.Debug("run released", "run", runID, "executions", told, "held", found)
	outcome := agentpb.CancelOutcome_CANCEL_OUTCOME_UNKNOWN
	if going || busy || found > 0 {
		outcome = agentpb.CancelOutcome_CANCEL_OUTCOME_CANCELLED
	}
	return &agentpb.CancelResponse{Outcome: outcome, Cancelled: told + uint32(found)}
}

// cancelRun cancels the executions of a run and leaves them half of grace to return: the rest is for letting go of
// what they hold. It returns whether any was going on, and how many had not been told to end before.
func (a *Agent) cancelRun(
	ctx context.Context, runID string, verdict Fail, grace time.Duration,
) (going bool, told uint32) {
	half, stop := context.WithTimeout(ctx, grace/2)
	defer stop()
	tasks := a.table.ofRun(runID)
	for _, t := range tasks {
		still, first := t.condemn(verdict, grace)
		going = going || still
		told += count(first)
	}
	for _, t := range tasks {
		wait(half, t.returned, grace)
	}
	return going, told
}

// letGo releases what is held for a run and returns how many things that were. What is not done a moment after until
// is counted too and goes on. busy tells whether an earlier release still goes on.
func (a *Agent) letGo(ctx context.Context, runID string, until time.Time) (found int, busy bool) {
	ctx, stop := context.WithDeadline(ctx, until)
	fresh, all, held := a.holds.release(ctx, runID)
	var others atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer stop()
		for _, release := range a.onRelease {
			callReleaseHandler(ctx, release, runID, &others)
		}
		held.Wait()
		others.Add(int64(a.dirs.remove(runID))) // last: what is held may still write to it
		a.table.closeRun(runID)
	}()
	late := time.NewTimer(max(time.Until(until), 0) + releaseMargin)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		slog.Warn("letting go of what is held for a run takes longer than the grace, and goes on", "run", runID)
	}
	return fresh + int(others.Load()), all > fresh
}

// callReleaseHandler adds to found how many things the handler let go of; at least one while it goes on or if it fails.
func callReleaseHandler(
	ctx context.Context, release func(context.Context, string) (int, error), runID string, found *atomic.Int64,
) {
	found.Add(1)
	n := 0
	err := guarded(ctx, func(ctx context.Context) (err error) { n, err = release(ctx, runID); return err })
	if err != nil {
		slog.Error("a release handler failed", "run", runID, "error", err)
		n = max(n, 1)
	}
	found.Add(int64(max(n, 0) - 1))
}

// releaseAll lets go of what is held for every run, all at once, because the agent ends.
func (a *Agent) releaseAll(within time.Duration) {
	until := time.Now().Add(within)
	var all sync.WaitGroup
	for _, id := range a.openRuns() {
		all.Go(func() { a.letGo(context.Background(), id, until) })
	}
	all.Wait()
}

// openRuns returns the runs that something may be held for.
func (a *Agent) openRuns() []string {
	open := map[string]struct{}{}
	for _, id := range slices.Concat(a.table.openRuns(), a.holds.runs(), a.dirs.runs()) {
		open[id] = struct{}{}
	}
	return slices.Collect(maps.Keys(open))
}

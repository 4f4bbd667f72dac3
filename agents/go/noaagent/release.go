package noaagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// How much longer than its deadline a release handler is waited for, so that a kill at the last moment is counted.
const releaseMargin = 250 * time.Millisecond

// releaseRun cancels all executions of a run, then has everything that is held for it let go, within grace.
func (a *Agent) releaseRun(
	ctx context.Context, runID string, verdict Fail, grace time.Duration,
) (*agentpb.CancelResponse, error) {
	until := time.Now().Add(grace - min(grace/10, releaseMargin))
	going, told := a.cancelRun(ctx, runID, verdict, grace)
	ctx, stop := context.WithDeadline(ctx, until)
	defer stop()
	released, err := a.letGo(ctx, runID)
	if err != nil {
		slog.Error("run not released", "run", runID, "error", err)
		return nil, status.Errorf(codes.Internal, "run %q is not released: %s. Cancel it again", runID, err)
	}
	slog.Debug("run released", "run", runID, "executions", told, "held", released)
	outcome := agentpb.CancelOutcome_CANCEL_OUTCOME_UNKNOWN
	if going || released > 0 {
		outcome = agentpb.CancelOutcome_CANCEL_OUTCOME_CANCELLED
	}
	return &agentpb.CancelResponse{Outcome: outcome, Cancelled: told + uint32(released)}, nil
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

// letGo calls the release handlers. It does not wait for one that ignores the deadline of ctx.
func (a *Agent) letGo(ctx context.Context, runID string) (int, error) {
	type outcome struct {
		released int
		err      error
	}
	done := make(chan outcome, 1)
	go func() {
		released, err := a.callReleaseHandlers(ctx, runID)
		if err == nil {
			a.table.closeRun(runID)
		}
		done <- outcome{released, err}
	}()
	late := time.NewTimer(lateAfter(ctx))
	defer late.Stop()
	select {
	case o := <-done:
		return o.released, o.err
	case <-late.C:
		return 0, errors.New("its handlers take longer than the grace")
	}
}

func (a *Agent) callReleaseHandlers(ctx context.Context, runID string) (released int, err error) {
	for _, release := range a.onRelease {
		n, failure := callReleaseHandler(ctx, release, runID)
		released += max(n, 0)
		err = errors.Join(err, failure)
	}
	n, failure := a.holds.release(ctx, runID)
	released, err = released+n, errors.Join(err, failure)
	n, failure = a.dirs.remove(runID)
	return released + n, errors.Join(err, failure)
}

func callReleaseHandler(
	ctx context.Context, release func(context.Context, string) (int, error), runID string,
) (n int, err error) {
	defer func() {
		if p := recover(); p != nil { // an author's mistake must not end the agent for the other runs
			err = fmt.Errorf("a release handler panicked: %v", p)
		}
	}()
	return release(ctx, runID)
}

func lateAfter(ctx context.Context) time.Duration {
	until, _ := ctx.Deadline()
	return max(time.Until(until), 0) + releaseMargin
}

// releaseAll lets go of what is held for every run, all at once, because the agent ends.
func (a *Agent) releaseAll(within time.Duration) {
	ctx, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	runs := a.table.openRuns()
	done := make(chan struct{}, len(runs))
	for _, id := range runs {
		go func() {
			if _, err := a.letGo(ctx, id); err != nil {
				slog.Error("run not released", "run", id, "error", err)
			}
			done <- struct{}{}
		}()
	}
	for range runs {
		<-done
	}
}

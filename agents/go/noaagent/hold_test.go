package noaagent_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

// wantCancel checks what the cancel of a run says.
func wantCancel(t *testing.T, r *agenttest.Running, req *agentpb.CancelRequest, outcome agentpb.CancelOutcome, count uint32) {
	t.Helper()
	if c := cancel(t, r, req); c.GetOutcome() != outcome || c.GetCancelled() != count {
		t.Errorf("got %v, want %v with %d", c, outcome, count)
	}
}

func TestWhatIsHeldIsLetGoOnce(t *testing.T) {
	calls := map[string]int{}
	r := serveWork(t, func(ctx context.Context, x *noaagent.Execution, _ empty) (empty, error) {
		earlier := x.Hold(func(context.Context) error { calls["earlier"]++; return nil })
		twice := x.Hold(func(context.Context) error {
			if calls["twice"]++; calls["twice"] == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		if twice(ctx) == nil {
			return empty{}, errors.New("the failure is not told")
		}
		return empty{}, errors.Join(earlier(ctx), earlier(ctx))
	})
	if f := agenttest.Failure(t, r.Execute(t, agenttest.Request(t, "h", "work", empty{}))); f != nil {
		t.Fatal(f)
	}
	wantCancel(t, r, byRun("run-h"), cancelled, 1)
	wantCancel(t, r, byRun("run-h"), unknown, 0)
	if calls["earlier"] != 1 || calls["twice"] != 2 {
		t.Errorf("got calls %v", calls)
	}
}

func TestWhatCannotBeLetGoIsCountedAndForgotten(t *testing.T) {
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (empty, error) {
		x.Hold(func(context.Context) error { return errors.New("never") })
		x.Hold(func(context.Context) error { panic("ever") })
		return empty{}, nil
	})
	r.Execute(t, agenttest.Request(t, "h", "work", empty{}))
	wantCancel(t, r, byRun("run-h"), cancelled, 2)
	wantCancel(t, r, byRun("run-h"), unknown, 0)
}

func TestWhatIsLetGoSlowlyIsCountedOnceAndGoesOn(t *testing.T) {
	hang, gone := make(chan struct{}), make(chan struct{})
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (empty, error) {
		x.Hold(func(context.Context) error { <-hang; close(gone); return nil })
		return empty{}, nil
	})
	r.Execute(t, agenttest.Request(t, "h", "work", empty{}))
	short := byRun("run-h")
	short.Grace = durationpb.New(0)
	wantCancel(t, r, short, cancelled, 1)
	wantCancel(t, r, short, cancelled, 0)
	close(hang)
	<-gone
	wantCancel(t, r, byRun("run-other"), unknown, 0)
}

func TestWhatAnAbandonedExecutionHoldsIsLetGoAtOnce(t *testing.T) {
	started, over := make(chan struct{}), make(chan struct{})
	gone := make(chan struct{})
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (empty, error) {
		close(started)
		<-over
		x.Hold(func(context.Context) error { close(gone); return nil })
		return empty{}, nil
	})
	stream := execute(t, r, agenttest.Request(t, "h", "work", empty{}))
	<-started
	short := byRun("run-h")
	short.Grace = durationpb.New(0)
	wantCancel(t, r, short, cancelled, 1)
	wantCode(t, agenttest.Drain(t, stream), "CANCELLED", false)
	close(over)
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("it is held although its run is over")
	}
}

package noaagent_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

func TestWhatIsHeldIsLetGoOnceAndAgainIfThatFails(t *testing.T) {
	calls := map[string]int{}
	r := serveWork(t, func(ctx context.Context, x *noaagent.Execution, _ empty) (empty, error) {
		earlier := x.Hold(func(context.Context) error { calls["earlier"]++; return nil })
		x.Hold(func(context.Context) error {
			if calls["unwilling"]++; calls["unwilling"] == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		return empty{}, errors.Join(earlier(ctx), earlier(ctx))
	})
	if f := agenttest.Failure(t, r.Execute(t, agenttest.Request(t, "h", "work", empty{}))); f != nil {
		t.Fatal(f)
	}
	if _, err := r.Client.Cancel(agenttest.Context(t), byRun("run-h")); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	if c := cancel(t, r, byRun("run-h")); c.GetOutcome() != cancelled || c.GetCancelled() != 1 {
		t.Errorf("got %v", c)
	}
	if c := cancel(t, r, byRun("run-h")); c.GetOutcome() != unknown {
		t.Errorf("got %v", c)
	}
	if calls["earlier"] != 1 || calls["unwilling"] != 2 {
		t.Errorf("got calls %v", calls)
	}
}

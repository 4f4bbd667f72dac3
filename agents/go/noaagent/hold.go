package noaagent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Hold keeps something for the run after the action has returned, such as a child process. letGo is called when the
// run is released or the agent ends, together with those of everything else that is held. It must be done by the
// deadline of ctx; where it is not, the engine is answered without it and it may go on. An error from it is logged, and
// it is not called again. The returned function lets go earlier, at most once; if that fails it is held still.
//
// An execution that has been told to end can hold nothing more: letGo is called at once.
func (x *Execution) Hold(letGo func(ctx context.Context) error) (earlier func(ctx context.Context) error) {
	one := x.agent.holds.add(x.RunID, letGo)
	if x.task.told() { // the run may have been released already
		go func() {
			ctx, done := context.WithTimeout(context.Background(), defaultGrace)
			defer done()
			x.agent.holds.endForGood(ctx, x.RunID, one)
		}()
	}
	return func(ctx context.Context) error { return x.agent.holds.end(ctx, x.RunID, one) }
}

// LetGo calls all of earlier, which are what [Execution.Hold] returned, at once and waits for them; they have to be
// done within that time. What does not let go stays held by its run. For work that fails after it has started things.
func LetGo(within time.Duration, earlier ...func(ctx context.Context) error) {
	ctx, done := context.WithTimeout(context.Background(), within)
	defer done()
	var all sync.WaitGroup
	for _, letGo := range earlier {
		all.Go(func() { _ = letGo(ctx) })
	}
	all.Wait()
}

// holds are the things that are held for each run.
type holds struct {
	mu    sync.Mutex
	byRun map[string]map[*hold]struct{}
}

type hold struct {
	counted bool // by a release; guarded by holds.mu

	mu    sync.Mutex // held while letGo is called
	letGo func(context.Context) error
	done  bool
}

func (h *holds) add(runID string, letGo func(context.Context) error) *hold {
	one := &hold{letGo: letGo}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byRun == nil {
		h.byRun = map[string]map[*hold]struct{}{}
	}
	if h.byRun[runID] == nil {
		h.byRun[runID] = map[*hold]struct{}{}
	}
	h.byRun[runID][one] = struct{}{}
	return one
}

// end lets go of one thing and forgets it if that worked or was done before.
func (h *holds) end(ctx context.Context, runID string, one *hold) (err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.done {
		return nil
	}
	if err := guarded(ctx, one.letGo); err != nil {
		return fmt.Errorf("let go: %w", err)
	}
	one.done = true
	h.forget(runID, one)
	return nil
}

// endForGood lets go of one thing and forgets it, also if that fails.
func (h *holds) endForGood(ctx context.Context, runID string, one *hold) {
	if err := h.end(ctx, runID, one); err != nil {
		slog.Error("what was held for a run was not let go of", "run", runID, "error", err)
		one.mu.Lock()
		defer one.mu.Unlock()
		one.done = true
		h.forget(runID, one)
	}
}

func (h *holds) forget(runID string, one *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byRun[runID], one)
	if len(h.byRun[runID]) == 0 {
		delete(h.byRun, runID)
	}
}

// release begins to let go of everything that is held for a run, all at once. It returns how much of that no earlier
// release has begun with, how much it is in all, and what to wait for.
func (h *holds) release(ctx context.Context, runID string) (fresh, all int, released *sync.WaitGroup) {
	released = &sync.WaitGroup{}
	h.mu.Lock()
	defer h.mu.Unlock()
	for one := range h.byRun[runID] {
		all++
		if !one.counted {
			one.counted = true
			fresh++
		}
		released.Go(func() { h.endForGood(ctx, runID, one) })
	}
	return fresh, all, released
}

// runs returns the runs that something is held for.
func (h *holds) runs() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.byRun))
}

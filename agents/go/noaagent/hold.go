package noaagent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Hold keeps something for the run after the action has returned, such as a child process. letGo is called when the
// run is released or the agent ends, together with those of everything else that is held; it must be done by the
// deadline of ctx. When it fails it is called again on the next release. The returned function lets go earlier, at
// most once.
func (x *Execution) Hold(letGo func(ctx context.Context) error) (earlier func(ctx context.Context) error) {
	return x.agent.holds.add(x.RunID, letGo)
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
	mu    sync.Mutex
	letGo func(context.Context) error // nil once it is done
}

func (h *holds) add(runID string, letGo func(context.Context) error) func(context.Context) error {
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
	return func(ctx context.Context) error { _, err := h.end(ctx, runID, one); return err }
}

// end lets go of one thing and forgets it if that worked. did is false if it was done before.
func (h *holds) end(ctx context.Context, runID string, one *hold) (did bool, err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.letGo == nil {
		return false, nil
	}
	defer func() {
		if p := recover(); p != nil { // an author's mistake must not end the agent for the other runs
			err = fmt.Errorf("letting go panicked: %v", p)
		}
	}()
	if err := one.letGo(ctx); err != nil {
		return false, err
	}
	one.letGo = nil
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byRun[runID], one)
	if len(h.byRun[runID]) == 0 {
		delete(h.byRun, runID)
	}
	return true, nil
}

// release lets go of everything that is held for a run, all at once.
func (h *holds) release(ctx context.Context, runID string) (released int, err error) {
	type outcome struct {
		did bool
		err error
	}
	h.mu.Lock()
	outcomes := make(chan outcome, len(h.byRun[runID]))
	for one := range h.byRun[runID] {
		go func() {
			did, err := h.end(ctx, runID, one)
			outcomes <- outcome{did, err}
		}()
	}
	h.mu.Unlock()
	for range cap(outcomes) {
		o := <-outcomes
		if o.did {
			released++
		}
		err = errors.Join(err, o.err)
	}
	return released, err
}

package noaagent

import (
	"context"
	"os"
	"runtime"
	"time"
)

// Actions that compute share the Go scheduler's threads with the three calls, and hold each for 10 ms at a time.
// Where there are more of them than threads, Health waits in line for hundreds of milliseconds. With more threads
// than busy actions the operating system shares out the processors instead, which lets a call that has just arrived
// go first. Threads cost speed when nothing is in line, so they are added only when there is.
const (
	busyTick    = 25 * time.Millisecond
	idleTick    = 250 * time.Millisecond
	lateTick    = 8 * time.Millisecond
	mostThreads = 128
)

// keepHeadroom watches how late a timer is and doubles the threads while it is, until ctx ends. Without executions
// the runtime's own choice is restored. Whoever sets GOMAXPROCS decides alone.
func (a *Agent) keepHeadroom(ctx context.Context) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	defer runtime.SetDefaultGOMAXPROCS()
	raised, tick := false, idleTick
	for {
		late := a.lateness(ctx, tick)
		switch working := a.table.inFlight() > 0; {
		case ctx.Err() != nil:
			return
		case working && late > lateTick:
			if n := runtime.GOMAXPROCS(0); n < mostThreads {
				runtime.GOMAXPROCS(min(2*n, mostThreads))
				raised = true
			}
			tick = busyTick
		case working:
			tick = busyTick
		case raised:
			runtime.SetDefaultGOMAXPROCS()
			raised, tick = false, idleTick
		default:
			tick = idleTick
		}
	}
}

// lateness waits for tick and returns how much longer that took. An idle agent's wait ends with its first execution.
func (a *Agent) lateness(ctx context.Context, tick time.Duration) time.Duration {
	var begun chan struct{}
	if tick == idleTick {
		begun = a.table.begun
	}
	due := time.Now().Add(tick)
	wait(ctx, begun, tick)
	return time.Since(due)
}

package ready

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const probeEvery = 50 * time.Millisecond

// ErrEnded means that the service ended before it was ready.
var ErrEnded = errors.New("it ended before it was ready")

// Await returns nil once the service is ready, [ErrEnded] once ended is closed, the cause of ctx when that is
// cancelled, and another error that says what was lacking last when timeout is over.
func (r *Check) Await(ctx context.Context, timeout time.Duration, ended <-chan struct{}) error {
	began := time.Now()
	limited, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	for {
		lacking := r.Probe(limited, time.Since(began))
		select {
		case <-ended: // before success: another service may answer in its place
			return ErrEnded
		default:
		}
		if lacking == nil {
			return nil
		}
		select {
		case <-ended:
		case <-limited.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("it is not ready after %v: %w", timeout, lacking)
		case <-time.After(probeEvery):
		}
	}
}

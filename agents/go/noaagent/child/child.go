//go:build unix

// Package child runs child processes that do not outlive the agent: each has a process group of its own, which is
// ended as a whole. On Linux the kernel kills the child when the agent dies, however that happens.
package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long Close waits for a killed process to be gone.
const killTakes = time.Second

// Child is a started process.
type Child struct {
	// PID is its process id and that of its process group.
	PID int
	// Exited is closed when it has ended; what was left of its group has been killed then.
	Exited <-chan struct{}

	cmd *exec.Cmd
	log *log
}

// Start starts cmd and appends all that it writes to the file at logPath, and at last how it ended. It overwrites
// the SysProcAttr, Stdout and Stderr of cmd.
func Start(cmd *exec.Cmd, logPath string) (*Child, error) {
	l, err := openLog(logPath)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = attributes()
	cmd.Stdout, cmd.Stderr = l.file, l.file // files, not pipes: a grandchild that keeps a pipe would delay Wait
	if err := onLastingThread(cmd.Start); err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	exited := make(chan struct{})
	c := &Child{PID: cmd.Process.Pid, Exited: exited, cmd: cmd, log: l}
	go func() {
		_ = cmd.Wait() // ProcessState says how it ended
		_ = syscall.Kill(-c.PID, syscall.SIGKILL)
		l.end(fmt.Sprintf("%s, pid %d, ended: %s", cmd.Path, c.PID, cmd.ProcessState))
		close(exited)
	}()
	return c, nil
}

// Environment is the agent's own environment without what is between it and the engine, such as the token.
func Environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOA_AGENT_") })
}

// Tail is the last of what the process has written, at most 2 KiB.
func (c *Child) Tail() string { return c.log.tail() }

// Fate says how the process ended, such as "exit status 1", or "running".
func (c *Child) Fate() string {
	select {
	case <-c.Exited:
		return c.cmd.ProcessState.String()
	default:
		return "running"
	}
}

// Close ends the process: SIGTERM to its group, and SIGKILL when four fifths of the time until the deadline of ctx
// have passed. It returns when the process is gone. Closing it again does nothing.
func (c *Child) Close(ctx context.Context) error {
	grace := 5 * time.Second
	if until, ok := ctx.Deadline(); ok {
		grace = max(time.Until(until)/5*4, 0)
	}
	for _, step := range []struct {
		signal   syscall.Signal
		patience time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, killTakes}} {
		select {
		case <-c.Exited:
			return nil
		default:
			_ = syscall.Kill(-c.PID, step.signal)
		}
		timer := time.NewTimer(step.patience)
		select {
		case <-c.Exited:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
	return errors.New("the process does not end, not even when it is killed")
}

var (
	startThread sync.Once
	jobs        chan func()
)

// onLastingThread calls f on a thread that lives as long as the process: the kernel takes the end of the thread
// that started a child for the end of its parent.
func onLastingThread(f func() error) (err error) {
	startThread.Do(func() {
		jobs = make(chan func())
		go func() {
			runtime.LockOSThread()
			for job := range jobs {
				job()
			}
		}()
	})
	done := make(chan struct{})
	jobs <- func() { err = f(); close(done) }
	<-done
	return err
}

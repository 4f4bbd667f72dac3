package noaagent

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// Logger writes to the run's log as [Execution.Log] does, with attributes behind the message: for code that takes an
// [slog.Logger].
func (x *Execution) Logger() *slog.Logger { return slog.New(runLog{x: x}) }

// runLog is a handler that lets slog itself write the attributes.
type runLog struct {
	x    *Execution
	with []func(slog.Handler) slog.Handler
}

func (runLog) Enabled(context.Context, slog.Level) bool { return true }

func (l runLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.and(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (l runLog) WithGroup(name string) slog.Handler {
	return l.and(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (l runLog) and(step func(slog.Handler) slog.Handler) slog.Handler {
	return runLog{x: l.x, with: append(l.with[:len(l.with):len(l.with)], step)}
}

func (l runLog) Handle(ctx context.Context, record slog.Record) error {
	var attributes strings.Builder
	var h slog.Handler = slog.NewTextHandler(&attributes, &slog.HandlerOptions{
		Level: slog.Level(-1 << 10), ReplaceAttr: withoutHead,
	})
	for _, step := range l.with {
		h = step(h)
	}
	headless := slog.NewRecord(time.Time{}, record.Level, noMessage, 0)
	record.Attrs(func(a slog.Attr) bool { headless.AddAttrs(a); return true })
	if err := h.Handle(ctx, headless); err != nil {
		return err
	}
	l.x.Log(record.Level, strings.TrimSpace(record.Message+" "+attributes.String()))
	return nil
}

const noMessage = "\x00"

// withoutHead leaves out what a log message carries itself, but no attribute that is only called so.
func withoutHead(_ []string, a slog.Attr) slog.Attr {
	_, level := a.Value.Any().(slog.Level)
	if a.Key == slog.LevelKey && level || a.Key == slog.MessageKey && a.Value.String() == noMessage {
		return slog.Attr{}
	}
	return a
}

package noaagent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"time"
)

const echoName = "echo"

// WithEcho adds the action "echo" that the contract prescribes for conformance checks: it gives back its input as
// {"echo": input}. Optional fields of the input ask for what a check needs; its schema describes them. [Agent.Serve]
// adds it by itself while an agent is being checked. Returns the agent.
func (a *Agent) WithEcho() *Agent {
	act := Action{Name: echoName, Description: "Gives back its input, for tests.", Idempotent: true}
	handle[echoInput, echoOutput](a, act, echo)
	return a
}

type echoFields struct {
	SleepS      float64   `json:"sleep_s,omitempty" min:"0" desc:"Seconds to wait before the answer."`
	BurnS       float64   `json:"burn_s,omitempty" min:"0" desc:"Seconds to compute without pause before the answer."`
	Progress    int       `json:"progress,omitempty" min:"0" max:"100000" desc:"Progress messages to send, spread over sleep_s and burn_s."`
	Logs        int       `json:"logs,omitempty" min:"0" max:"100000" desc:"Log messages to send."`
	Chunks      int       `json:"chunks,omitempty" min:"0" max:"100000" desc:"Output chunks to send."`
	SizeBytes   int64     `json:"size_bytes,omitempty" min:"0" max:"1073741824" desc:"Length of the output field padding."`
	StderrBytes int64     `json:"stderr_bytes,omitempty" min:"0" max:"1073741824" desc:"Bytes to write to stderr, in lines."`
	Child       bool      `json:"child,omitempty" desc:"Start a child process that is held for the run; the output field pid names it."`
	Panic       bool      `json:"panic,omitempty" desc:"Panic instead of answering."`
	Fail        *echoFail `json:"fail,omitempty" desc:"Fail so instead of answering."`
}

type echoFail struct {
	Code        string  `json:"code,omitempty" desc:"ECHO_FAILED if it is not given."`
	Message     string  `json:"message,omitempty"`
	Retryable   bool    `json:"retryable,omitempty"`
	RetryAfterS float64 `json:"retry_after_s,omitempty" min:"0"`
}

type echoInput struct {
	echoFields
	raw json.RawMessage
}

func (in *echoInput) UnmarshalJSON(raw []byte) error {
	in.raw = bytes.Clone(raw)
	return json.Unmarshal(raw, &in.echoFields)
}

func (in *echoInput) JSONSchema() Schema { return SchemaOf(reflect.TypeFor[echoFields]()) }

// echoOutput says how the output looks; echoDocument writes it.
type echoOutput struct {
	Echo    anyObject `json:"echo" desc:"The input."`
	PID     int       `json:"pid,omitempty" desc:"The child process that was started."`
	Padding string    `json:"padding,omitempty" desc:"As long as size_bytes says."`
}

type anyObject struct{ json.RawMessage }

func (anyObject) JSONSchema() Schema { return Schema{"type": "object"} }

func echo(ctx context.Context, x *Execution, in echoInput, _ Schema) (document, error) {
	pid := 0
	if in.Child {
		started, err := holdChild(x)
		if err != nil {
			return document{}, fmt.Errorf("start a child process: %w", err)
		}
		pid = started
	}
	in.writeStderr(ctx)
	in.observe(ctx, x)
	if err := in.pass(ctx, x); err != nil {
		return document{}, err
	}
	switch {
	case in.Panic:
		panic("echo was asked to panic")
	case in.Fail != nil:
		return document{}, in.Fail.failure()
	}
	return echoDocument(in.raw, pid, in.SizeBytes), nil
}

func (f *echoFail) failure() Fail {
	out := Fail{
		Code: f.Code, Message: f.Message, Retryable: f.Retryable, RetryAfter: seconds(f.RetryAfterS),
	}
	if out.Code == "" {
		out.Code = "ECHO_FAILED"
	}
	return out
}

// seconds is a duration of at most a day.
func seconds(s float64) time.Duration {
	const longest = 24 * time.Hour
	return time.Duration(min(s, longest.Seconds()) * float64(time.Second))
}

// writeStderr writes lines of 128 bytes. A stderr that nobody reads any more is no concern of echo.
func (in *echoInput) writeStderr(ctx context.Context) {
	const line, piece = 128, 64 << 10
	block := bytes.Repeat(append(bytes.Repeat([]byte("x"), line-1), '\n'), piece/line)
	for left := in.StderrBytes; left > 0 && ctx.Err() == nil; left -= piece {
		if left < piece {
			block = append(block[:left-1], '\n')
		}
		if _, err := os.Stderr.Write(block); err != nil {
			return
		}
	}
}

// observe sends logs and chunks, as fast as the slowest client that reads takes them.
func (in *echoInput) observe(ctx context.Context, x *Execution) {
	for i := 1; i <= in.Logs && ctx.Err() == nil; i++ {
		x.Log(slog.LevelInfo, fmt.Sprintf("line %d", i))
		x.task.pace(ctx)
	}
	for i := 1; i <= in.Chunks && ctx.Err() == nil; i++ {
		x.Output("", fmt.Appendf(nil, "chunk %d\n", i))
		x.task.pace(ctx)
	}
}

// pass waits, then computes, and sends progress when it is due.
func (in *echoInput) pass(ctx context.Context, x *Execution) error {
	begun, sleep := time.Now(), seconds(in.SleepS)
	whole := sleep + seconds(in.BurnS)
	sent := 0
	report := func() (next time.Duration) {
		for sent < in.Progress && ctx.Err() == nil {
			if next = whole / time.Duration(in.Progress) * time.Duration(sent+1); time.Since(begun) < next {
				return next
			}
			sent++
			x.ProgressUnits(uint64(sent), uint64(in.Progress), "messages", "")
			x.task.pace(ctx)
		}
		return whole
	}
	for ctx.Err() == nil {
		next, passed := report(), time.Since(begun)
		switch {
		case passed >= whole && sent >= in.Progress:
			return nil
		case passed < sleep:
			wait(ctx, nil, min(next, sleep)-passed)
		default:
			compute()
		}
	}
	return context.Cause(ctx)
}

// compute keeps a core busy for some tens of microseconds.
func compute() {
	var block [16 << 10]byte
	_ = sha256.Sum256(block[:])
}

// echoDocument writes the output without ever holding the padding as a whole.
func echoDocument(input []byte, pid int, padding int64) document {
	head := append([]byte(`{"echo":`), input...)
	if pid != 0 {
		head = fmt.Appendf(head, `,"pid":%d`, pid)
	}
	if padding == 0 {
		head = append(head, '}')
		return document{size: int64(len(head)), text: bytes.NewReader(head)}
	}
	const tail = `"}`
	head = append(head, `,"padding":"`...)
	return document{
		size: int64(len(head)) + padding + int64(len(tail)),
		text: io.MultiReader(bytes.NewReader(head), io.LimitReader(letters{}, padding), bytes.NewReader([]byte(tail))),
	}
}

// letters is an endless run of x.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

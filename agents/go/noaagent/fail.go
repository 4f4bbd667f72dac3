package noaagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// Codes of the contract itself. Agents add their own, in UPPER_SNAKE_CASE.
const (
	CodeCancelled        = "CANCELLED"
	CodeDeadlineExceeded = "DEADLINE_EXCEEDED"
	CodeUnknownAction    = "UNKNOWN_ACTION"
	CodeInvalidInput     = "INVALID_INPUT"
	CodeOverloaded       = "OVERLOADED"
	CodePayloadTooLarge  = "PAYLOAD_TOO_LARGE"
	CodeInternal         = "INTERNAL"
)

const (
	maxFailureMessage = 16 << 10
	maxFailureDetails = 64 << 10
	maxFailureDepth   = 8
)

// Fail is work that failed, as the engine is told. An action returns it, or an error that wraps it.
type Fail struct {
	// Code is stable and in UPPER_SNAKE_CASE. Required.
	Code string
	// Message is one sentence for a person: what happened, where, what to do. Cut at 16 KiB.
	Message string
	// Retryable says whether another attempt may succeed.
	Retryable bool
	// RetryAfter is how long to wait at least before another attempt. 0 means not said.
	RetryAfter time.Duration
	// Details are facts for programs; anything that encoding/json writes. Left out above 64 KiB of JSON.
	Details map[string]any
	// Cause is what caused this failure, or nil. At most 8 levels are told.
	Cause error
}

// Failf returns a Fail that is not retryable. Its message is what [fmt.Errorf] makes of format and args; what %w names
// becomes the cause.
func Failf(code, format string, args ...any) Fail {
	err := fmt.Errorf(format, args...)
	return Fail{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// Error is the code and the message.
func (f Fail) Error() string { return f.Code + ": " + f.Message }

// Unwrap is the cause.
func (f Fail) Unwrap() error { return f.Cause }

// asFail finds the Fail that err is or wraps, by value or by pointer.
func asFail(err error) (Fail, bool) {
	if f, ok := errors.AsType[Fail](err); ok {
		return f, true
	}
	if f, ok := errors.AsType[*Fail](err); ok && f != nil {
		return *f, true
	}
	return Fail{}, false
}

// verdictOf is why ctx was cancelled, if it was: no other result of the work counts then.
func verdictOf(ctx context.Context) (Fail, bool) {
	if ctx.Err() == nil {
		return Fail{}, false
	}
	if f, ok := asFail(context.Cause(ctx)); ok {
		return f, true
	}
	return Fail{Code: CodeCancelled, Message: "the agent is ending", Retryable: true}, true
}

func failureOf(err error) *agentpb.Failure { return failureAt(err, 1) }

func failureAt(err error, depth int) *agentpb.Failure {
	f, ok := asFail(err)
	if !ok || f.Code == "" {
		f.Code, f.Message = CodeInternal, err.Error()
	}
	if f.Message == "" {
		f.Message = "the work failed with " + f.Code + " and without a message"
	}
	out := &agentpb.Failure{
		Code:      cut(f.Code, 256),
		Message:   cut(f.Message, maxFailureMessage),
		Retryable: f.Retryable,
		Details:   details(f.Details),
	}
	if f.RetryAfter > 0 {
		out.RetryAfter = durationpb.New(f.RetryAfter)
	}
	if f.Cause != nil && depth < maxFailureDepth {
		out.Cause = failureAt(f.Cause, depth+1)
	}
	return out
}

// details makes what it is given fit for the wire. It never fails: a failure must reach the engine.
func details(facts map[string]any) *structpb.Struct {
	if facts == nil {
		return nil
	}
	raw, err := json.Marshal(facts)
	if err != nil {
		raw, _ = json.Marshal(map[string]string{"details_left_out": err.Error()})
	}
	if len(raw) > maxFailureDetails {
		raw = []byte(`{"details_left_out":"they have more than 64 KiB"}`)
	}
	out := &structpb.Struct{}
	if err := out.UnmarshalJSON(raw); err != nil {
		return nil
	}
	return out
}

// cut makes s a string that protobuf takes: valid UTF-8 of at most limit bytes.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	end := limit - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

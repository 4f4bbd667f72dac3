package noaagent

import (
	"context"
	"encoding/json"
	"reflect"
	"time"
)

// WithEcho adds the action "echo", which conformance checks use: it gives back its input as {"echo": input}. The
// optional fields sleep_s (seconds to wait first) and fail ({"code", "message", "retryable"}: fail so instead) say
// otherwise. Returns the agent.
func (a *Agent) WithEcho() *Agent {
	act := Action{Name: "echo", Description: "Gives back its input, for tests.", Idempotent: true}
	Handle(a, act, echo)
	return a
}

type echoFields struct {
	SleepS float64   `json:"sleep_s,omitempty" min:"0" desc:"Seconds to wait before the answer."`
	Fail   *echoFail `json:"fail,omitempty" desc:"Fail so instead of answering."`
}

type echoFail struct {
	Code      string `json:"code,omitempty" desc:"ECHO_FAILED if it is not given."`
	Message   string `json:"message,omitempty"`
	Retryable bool   `json:"retryable,omitempty"`
}

type echoInput struct {
	echoFields
	raw json.RawMessage
}

func (in *echoInput) UnmarshalJSON(raw []byte) error {
	in.raw = append(json.RawMessage(nil), raw...)
	return json.Unmarshal(raw, &in.echoFields)
}

func (in *echoInput) JSONSchema() Schema { return SchemaOf(reflect.TypeFor[echoFields]()) }

type echoOutput struct {
	Echo anyObject `json:"echo" desc:"The input."`
}

type anyObject struct{ json.RawMessage }

func (anyObject) JSONSchema() Schema { return Schema{"type": "object"} }

func echo(ctx context.Context, _ *Execution, in echoInput) (echoOutput, error) {
	const longest = 24 * time.Hour
	if in.SleepS > 0 {
		wake := time.NewTimer(time.Duration(min(in.SleepS, longest.Seconds()) * float64(time.Second)))
		defer wake.Stop()
		select {
		case <-wake.C:
		case <-ctx.Done():
			return echoOutput{}, context.Cause(ctx)
		}
	}
	if f := in.Fail; f != nil {
		if f.Code == "" {
			f.Code = "ECHO_FAILED"
		}
		return echoOutput{}, Fail{Code: f.Code, Message: f.Message, Retryable: f.Retryable}
	}
	return echoOutput{Echo: anyObject{in.raw}}, nil
}

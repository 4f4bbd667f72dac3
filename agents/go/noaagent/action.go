package noaagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// Action names and describes something that an agent can be asked for.
type Action struct {
	// Name is unique in the agent. Required.
	Name string
	// Description is one sentence for a person.
	Description string
	// Idempotent says that doing it twice with the same inputs has the same effect as doing it once.
	Idempotent bool
}

// Validator is implemented by input types with rules that a schema cannot say. An error from it fails the
// execution with INVALID_INPUT; return a [FieldError] to name the field.
type Validator interface {
	Validate() error
}

// action is a registered action with its types worn off.
type action struct {
	spec    Action
	proto   *agentpb.Action
	perform func(ctx context.Context, x *Execution, input []byte) (output document, err error)
}

// Handle registers work as the action act. In and Out must be encoded as JSON objects: structs, or maps with
// string keys. Their schemas are derived from the types (see [Schema]) and checked on every execution, so work
// sees only inputs that fit.
//
// ctx is cancelled when the execution is cancelled or its deadline passes; work that ignores it is abandoned. An
// error that is, or wraps, a [Fail] fails the execution as it says, any other with INTERNAL; so does a panic.
func Handle[In, Out any](a *Agent, act Action, work func(ctx context.Context, x *Execution, in In) (Out, error)) {
	handle[In, Out](a, act, func(ctx context.Context, x *Execution, in In, output Schema) (document, error) {
		out, err := work(ctx, x, in)
		if err != nil {
			return document{}, err
		}
		return encodeOutput(output, out)
	})
}

// handle is Handle for work that writes its output itself. Out only says how that looks.
func handle[In, Out any](
	a *Agent, act Action, work func(ctx context.Context, x *Execution, in In, output Schema) (document, error),
) {
	input, output := objectSchema[In](act.Name), objectSchema[Out](act.Name)
	a.register(&action{
		spec: act,
		proto: &agentpb.Action{
			Name: act.Name, Description: act.Description, Idempotent: act.Idempotent,
			InputSchema: toStruct(input), OutputSchema: toStruct(output),
		},
		perform: func(ctx context.Context, x *Execution, raw []byte) (document, error) {
			in, err := decodeInput[In](input, raw)
			if err != nil {
				return document{}, Failf(CodeInvalidInput, "action %q: %s", act.Name, err)
			}
			return work(ctx, x, in, output)
		},
	})
}

func objectSchema[T any](name string) Schema {
	s := SchemaOf(reflect.TypeFor[T]())
	if !isType(s, "object") {
		panic(fmt.Sprintf("noaagent: action %q: %v is not encoded as a JSON object", name, reflect.TypeFor[T]()))
	}
	s["type"] = "object" // a nil map is null elsewhere; an input or output never is
	return s
}

// decodeInput checks raw against s and decodes it. What is decoded is the value that was checked, written anew:
// encoding/json reads repeated and differently capitalised names in its own way, which the check does not see.
func decodeInput[In any](s Schema, raw []byte) (in In, err error) {
	value, err := decodeJSON(raw)
	if err != nil {
		return in, &FieldError{Field: "input", Problem: "is not JSON: " + err.Error()}
	}
	if err := s.check(value); err != nil {
		return in, err
	}
	checked, err := json.Marshal(value)
	if err != nil {
		return in, &FieldError{Field: "input", Problem: err.Error()}
	}
	if err := json.Unmarshal(checked, &in); err != nil {
		return in, decodingError(err)
	}
	for _, form := range []any{&in, in} { // In may be a struct, whose pointer has all methods, or a pointer
		if v, ok := form.(Validator); ok {
			return in, v.Validate()
		}
	}
	return in, nil
}

func decodingError(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return &FieldError{Field: wrong.Field, Problem: fmt.Sprintf("must be of type %v, not %s", wrong.Type, wrong.Value)}
	}
	return &FieldError{Field: "input", Problem: err.Error()}
}

func encodeOutput(s Schema, out any) (document, error) {
	raw, err := json.Marshal(out)
	if err != nil {
		return document{}, Failf(CodeInternal, "the output cannot be written as JSON: %s", err)
	}
	if bytes.Equal(raw, []byte("null")) {
		raw = []byte("{}")
	}
	value, err := decodeJSON(raw)
	if err == nil {
		err = s.check(value)
	}
	if err != nil {
		return document{}, Failf(CodeInternal, "the output does not fit its schema: %s", err)
	}
	return document{size: int64(len(raw)), text: bytes.NewReader(raw)}, nil
}

// decodeJSON reads one JSON value and keeps its numbers as they are written.
func decodeJSON(raw []byte) (value any, err error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not valid UTF-8")
	}
	if !json.Valid(raw) { // for its message, and because a Decoder does not mind what follows
		return nil, json.Unmarshal(raw, &value)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return value, d.Decode(&value)
}

// Package noaagent is the SDK for agents of the noa workflow system that are written in Go.
//
// An author registers typed actions with [Handle] and calls [Agent.Serve]; the package does the rest of the agent
// contract (agents/CONTRACT.md): the three calls Execute, Health and Cancel, authentication, JSON Schemas from
// types, joining and repeating of executions, deadlines, heartbeats, payloads by reference, draining and the end
// of the process. Nothing in an action needs to know gRPC.
//
//	a := noaagent.New("greeter", "1.0.0")
//	noaagent.Handle(a, noaagent.Action{Name: "greet", Idempotent: true},
//		func(ctx context.Context, x *noaagent.Execution, in Input) (Output, error) {
//			return Output{Text: "hello " + in.Name}, nil
//		})
//	noaagent.Exit(a.Serve(context.Background()))
package noaagent

#!/bin/sh
# Regenerates noaagent/agentpb from ../../protos. The same inputs give the same bytes: both plugins are pinned by
# go.mod and go.sum, protoc by the version of grpcio-tools that $PYTHON has (it stands in the files' headers).
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}
module=github.com/noa-workflow/noa/agents/go

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/out"
go build -o "$work/bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc

# Relative names, sorted, so that neither the machine's paths nor its locale reach the output.
protos=$(cd ../../protos && LC_ALL=C ls noa/agent/v1/*.proto)
"$python" -m grpc_tools.protoc -I ../../protos \
  --plugin=protoc-gen-go="$work/bin/protoc-gen-go" \
  --plugin=protoc-gen-go-grpc="$work/bin/protoc-gen-go-grpc" \
  --go_out="$work/out" --go_opt=module=$module \
  --go-grpc_out="$work/out" --go-grpc_opt=module=$module \
  $protos

mkdir -p noaagent/agentpb
rm -f noaagent/agentpb/*.pb.go
cp "$work/out/noaagent/agentpb/"*.pb.go noaagent/agentpb/

"""`python -m noa_model_server [ai_model|onnx]`: the sidecars. An engine starts them."""

from __future__ import annotations

import sys

from noa.sdk import serve

__all__ = ["main"]


def main() -> int:
    """Serve until the engine ends it; the exit status."""
    which = sys.argv[1] if len(sys.argv) > 1 else "ai_model"
    if which == "onnx":
        from noa_model_server.onnx import OnnxAgent

        return serve(OnnxAgent())
    if which == "ai_model":
        from noa_model_server.agent import ModelAgent

        return serve(ModelAgent())
    sys.stderr.write(f"there is no agent '{which}' here: ai_model or onnx\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())

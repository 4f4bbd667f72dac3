"""`python -m noa_model_server`: the sidecar. An engine starts it."""

from __future__ import annotations

import sys

from noa.sdk import serve
from noa_model_server.agent import ModelAgent

__all__ = ["main"]


def main() -> int:
    """Serve until the engine ends it; the exit status."""
    return serve(ModelAgent())


if __name__ == "__main__":
    sys.exit(main())

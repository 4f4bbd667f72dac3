"""Who is acting: the user of the operating system, or whose token is in the environment."""

from __future__ import annotations

import os

from noa.errors import UsageError
from noa.runtime import Settings, current_actor

__all__ = ["TOKEN_VARIABLE", "actor_of"]

TOKEN_VARIABLE = "NOA_ACTOR_TOKEN"
_RESERVED = ("nobody", "mode ")


def actor_of(settings: Settings) -> str:
    """The name under which what a person does is recorded.

    Raises:
        UsageError: `NOA_ACTOR_TOKEN` is set, and is no token of this state folder. Nothing may be recorded then.
    """
    text = os.environ.get(TOKEN_VARIABLE, "")
    if text:
        from noa.storage.tokens import TokenStore

        name = TokenStore(settings.home.absolute()).name_of(text)
        if name is None:
            raise UsageError(
                f"{TOKEN_VARIABLE} is no token of {settings.home.absolute()}, so nothing was recorded. Tokens are made "
                "by `noa token add NAME`; without the variable you act as the user of the operating system"
            )
        return name
    user = current_actor()
    # Names that begin so mean that no person answered; an answer of theirs would count for everybody.
    return f"user {user}" if user.startswith(_RESERVED) else user

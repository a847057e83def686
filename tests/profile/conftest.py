from collections.abc import Callable
from textwrap import dedent

import pytest

from harness.profile.load import InvalidProfileError, load_profile_text
from harness.profile.problems import Problem

VALID = """\
purpose: smoke
model:
  id: builtin:tiny
server:
  kind: torch
traffic:
  api: messages
  workload:
    kind: chat
    user_tok: 40
  load:
    - kind: concurrency
      concurrency: 8
      window_s: 15s
"""


@pytest.fixture(name="valid")
def _valid() -> str:
    """A small valid profile; its lines are counted on."""
    return VALID


@pytest.fixture(name="problems")
def _problems() -> Callable[..., list[Problem]]:
    """Everything that is wrong with a text, as problems of the file `p.yaml`; empty when it loads."""

    def problems(text: str, *overrides: str) -> list[Problem]:
        found: list[Problem] = []
        try:
            load_profile_text(dedent(text), source="p.yaml", overrides=overrides)
        except InvalidProfileError as error:
            found = list(error.problems)
        return found

    return problems

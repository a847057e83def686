from collections.abc import Callable
from textwrap import dedent

import pytest

from harness.checked_yaml.problems import InvalidYamlError, Problem
from harness.profile.load import load_profile_text

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
        except InvalidYamlError as error:
            found = list(error.problems)
        return found

    return problems

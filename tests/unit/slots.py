"""A check that the slots of a pool make only the moves in `MOVES`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from wsgipool.pool._slot import MOVES, Slot, SlotState


@contextlib.contextmanager
def legal_moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Assert at the end that no slot has made a move that is not in `MOVES`.

    This makes each move a call, where the interpreter may deliver an asynchronous exception. So it is not for tests
    with real ones.
    """
    state: Any = Slot.__dict__["state"]
    illegal: list[tuple[SlotState, SlotState]] = []

    def move(slot: Slot[Any], to: SlotState) -> None:
        try:
            before = state.__get__(slot)
        except AttributeError:
            pass  # a new slot
        else:
            if to not in MOVES[before]:
                illegal.append((before, to))
        state.__set__(slot, to)

    with monkeypatch.context() as patch:
        patch.setattr(Slot, "state", property(state.__get__, move))
        yield
    assert not illegal, f"illegal moves: {illegal}"

"""Runs that are asked to stop, wherever they are."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from threeshnet.cli import main

from ..common import finish
from .runs import wait_for_save
from .scene import Scene, fault


def signalled(scene: Scene, number: signal.Signals, *, everywhere: bool = False) -> int:
    process = scene.begin()
    for _ in range(2):  # so that one is kept, whatever the signal cuts
        wait_for_save(scene.folder, process)
    (os.killpg if everywhere else os.kill)(process, number)
    return finish(process)


fault("SIGTERM")(partial(signalled, number=signal.SIGTERM))


@fault("SIGTERM to the loader's workers as well")
def sigterm_to_all(scene: Scene) -> int:
    scene.words.append("batches.workers=2")
    return signalled(scene, signal.SIGTERM, everywhere=True)


fault("SIGINT")(partial(signalled, number=signal.SIGINT))
fault("SIGUSR1")(partial(signalled, number=signal.SIGUSR1))


@fault("SIGTERM in an evaluation")
def in_an_evaluation(scene: Scene) -> int:
    from threeshnet.training.module import RetrievalModule

    return finish(scene.begin(command=lambda: at_call(RetrievalModule, "validation_step", 1, _terminate)))


@fault("SIGTERM in the scoring at the end")
def in_the_scoring(scene: Scene) -> int:
    from threeshnet.training.encoding import EncodingModule

    ours = EncodingModule.test_step

    def terminating(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self.trainer.testing and batch_idx == 0 and dataloader_idx == 0:
            _terminate()
        return ours(self, batch, batch_idx, dataloader_idx)

    def command() -> None:
        EncodingModule.test_step = terminating
        main()

    return finish(scene.begin(command=command))


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def at_call(owner: Any, name: str, call: int, act: Callable[[], None]) -> None:
    """Trains, and acts at the call of this number, counted from 0, of a method; only in a fork."""
    ours, count = getattr(owner, name), iter(range(1_000_000))

    def acting(*arguments: Any, **named: Any) -> Any:
        if next(count) == call:
            act()
        return ours(*arguments, **named)

    setattr(owner, name, acting)
    main()


fault("SIGKILL while a checkpoint is written")(partial(signalled, number=signal.SIGKILL, everywhere=True))

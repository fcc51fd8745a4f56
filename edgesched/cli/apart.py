"""Run foreign code in a process of its own: whatever it does there, it is the caller who says what it means."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from agents.worker_process import ending_of

T = TypeVar("T")


class DidNotAnswer(Exception):
    """The process ended without an answer, or took too long. The message says which, as the end of a sentence."""


def run_apart(
    function: Callable[..., T], *arguments: Any, timeout_s: float, patience_s: float, on_waiting: Callable[[], None]
) -> T:
    """What the function returns. Function, arguments and answer are pickled; what it prints is seen.

    on_waiting: called once if there is no answer after `patience_s`.
    Raises: DidNotAnswer. The process does not outlive this call.
    """
    context = multiprocessing.get_context("forkserver")  # a plain fork would copy the threads' locks of this process
    context.set_forkserver_preload([function.__module__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(patience_s):
            on_waiting()
            if not ours.poll(timeout_s - patience_s):
                raise DidNotAnswer(f"took longer than {timeout_s:g} s")
        answer: T = ours.recv()
    except EOFError:
        process.join()
        raise DidNotAnswer(ending_of(process.exitcode or 0)) from None
    finally:
        process.kill()
        process.join()
    return answer


def _answer(answer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    answer.send(function(*arguments))

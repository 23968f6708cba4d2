"""One worker process: gets tasks through standard input, does them, tells what happens through standard output."""

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Works until its parent ends it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    tasks = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    # whatever else reads or prints must not meet the pipes
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(tasks, arrived), daemon=True).start()

    def tell(kind: str, value: Any = None) -> None:
        try:
            answers.send_bytes(pickle.dumps((kind, value)))
        except BrokenPipeError:
            os._exit(1)

    warnings.showwarning = lambda message, *_, **__: tell("warning", str(message))
    try:
        from eval.generate.runner import open_maker

        maker = open_maker(*pickle.loads(arrived.get()))
        while True:
            task = pickle.loads(arrived.get())
            tell("done" if maker.run(task, lambda event: tell("event", event)) else "busy")
    except BaseException as error:
        tell("error", _portable(error))
        sys.exit(1)


def _receive(tasks: Connection, arrived: "queue.SimpleQueue[bytes]") -> None:
    """Takes tasks as they come. The pipe's end means that the parent is gone: then there is nobody to work for."""
    while True:
        try:
            arrived.put(tasks.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """The error itself where it survives the way to the parent, else one with its text; both with its traceback."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            copy.add_note(f"in a worker process:\n{text}")
            return copy
    except Exception:
        pass
    return RuntimeError(f"in a worker process:\n{text}")

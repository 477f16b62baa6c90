"""Stand-ins for the process that holds vLLM: `python -m tests.unit.fake_hosts FD`; the model's name says how."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from reasoner.errors import SamplerError
from reasoner.sampling.base import Completed, Completion
from reasoner.sampling.vllm.messages import Close, Done, EngineReady, RequestFailed, StartEngine, Submit, failure


def hang_at_start() -> None:
    time.sleep(600)


def main(connection: Connection) -> None:
    faulthandler.register(signal.SIGUSR1)
    start = connection.recv()
    assert isinstance(start, StartEngine)
    print(f"host {os.getpid()} does: {start.model}", flush=True)
    if start.model == "hang":
        hang_at_start()
    if start.model == "crash":
        os._exit(3)
    if start.model == "spawn":  # as vLLM does to look at a model
        subprocess.run([sys.executable, "-c", "import statistics; print('spawned')"], check=True)
    if start.model in ("refuse", "raise"):
        error = SamplerError("no experts") if start.model == "refuse" else KeyError("lm_head.weight")
        try:
            raise error
        except Exception as raised:
            connection.send(failure(raised))
        return
    connection.send(Done(EngineReady("a fake", 4)))
    serve(connection, start.model)


def serve(connection: Connection, does: str) -> None:
    while not isinstance(request := connection.recv(), Close):
        if not isinstance(request, Submit):
            if does == "mute":
                hang_at_work()
            connection.send(Done())
        elif does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif does == "stall":
            hang_at_work()
        elif does == "fail":
            connection.send(RequestFailed("no experts", is_traceback=False))
        else:
            for asked in request.requests:
                written = Completion(asked.token_ids, (-0.5,) * len(asked.token_ids), "stop", 0)
                connection.send(Completed(asked.id, (written,) * asked.n))


def hang_at_work() -> None:
    time.sleep(600)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))

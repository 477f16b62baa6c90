"""vLLM's own server, with the arguments of the engine in a run: `python -m reasoner.sampling.server.entrypoint START
PLACE`.

`reasoner serve` starts it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

try:  # vLLM 0.33
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.entrypoints.common.startup import cli_env_setup
except ImportError:  # vLLM 0.32
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

from reasoner.sampling.vllm.host import engine_arguments
from reasoner.sampling.vllm.messages import StartEngine

SERVER: dict[str, Any] = {
    # token ids in, token ids out
    "enable_scale_out": True,
    # vLLM asks for the key on some routes only, and not on those that change the model; and it lets in any page
    "middleware": "reasoner.sampling.server.auth.Guard",
    "disable_uvicorn_access_log": True,
}
"""arguments beside the engine's"""


def flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The arguments as vLLM's command line has them."""
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield from (f"--{option}", str(value))


def main(start: StartEngine, place: dict[str, Any]) -> None:
    """`vllm serve`, as its command line would do it: that one wants a distribution by the name of `vllm`, which the CPU
    build has not.
    """
    cli_env_setup()
    arguments = engine_arguments(start) | SERVER | place
    options = make_arg_parser(FlexibleArgumentParser()).parse_args([*flags(arguments)])
    command = ServeSubcommand()
    command.validate(options)
    command.cmd(options)


if __name__ == "__main__":
    engine, place = (json.loads(argument) for argument in sys.argv[1:])
    main(StartEngine(**engine), place)

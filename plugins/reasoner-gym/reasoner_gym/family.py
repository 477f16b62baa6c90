"""The task file of a dataset."""

from __future__ import annotations


def toml(name: str) -> str:
    """The text of the task file of that dataset."""
    return _TASK.replace("@NAME@", name)


_TASK = r"""
title = "reasoning-gym: @NAME@, answers in \\boxed{}"

[prompt]
system = "Answer in a few short sentences. End with the final answer as \\boxed{answer}."
template = "{{ question }}"

[[rewards]]
source = "reasoning_gym"
weight = 1.0
options = { name = "@NAME@" }

[[rewards]]
source = "boxed_format"
weight = 0.2

[gro]
preset = "grpo"

[evaluation]
correct = "reasoning_gym"

[data.train]
generator = "reasoning_gym"
options = { name = "@NAME@" }
seed = 1
[data.eval]
generator = "reasoning_gym"
options = { name = "@NAME@" }
seed = 2

# One CPU, minutes: the embedded 135M model.
[profiles.laptop]
[profiles.laptop.model]
path = "embedded:smollm2-135m-instruct"
[profiles.laptop.data.train]
limit = 64
[profiles.laptop.data.eval]
limit = 24
[profiles.laptop.sampling]
group_size = 8
max_tokens = 96
max_prompt_tokens = 1024
[profiles.laptop.learning]
problems_per_step = 4
learning_rate = 2e-5
token_budget = 2048
[profiles.laptop.run]
steps = 12

# One GPU.
[profiles.gpu]
[profiles.gpu.model]
path = "Qwen/Qwen2.5-0.5B-Instruct"
dtype = "bfloat16"
[profiles.gpu.data.train]
limit = 2000
[profiles.gpu.data.eval]
limit = 200
[profiles.gpu.sampling]
group_size = 8
max_tokens = 512
max_prompt_tokens = 4096
[profiles.gpu.learning]
problems_per_step = 64
learning_rate = 1e-6
token_budget = 32768
gradient_checkpointing = "auto"
[profiles.gpu.evaluation]
every = 20
[profiles.gpu.run]
steps = 200
"""

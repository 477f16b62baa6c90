"""The TRL side of bench_learning.py; runs in TRL's own environment and imports nothing of this project's package.

`GRPOTrainer` gets the problems in the order in which our run takes them. A child process of ours judges the responses,
with the very functions of our run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from scripts.learning_clock import Clock


class Judge:
    """The reward function: what our verifiers say of the responses."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.end_ids: set[int] = set()
        """tokens that end a response"""
        self.right = 0.0
        """share of right responses of the last batch"""
        self.tokens = 0
        """of the last batch"""
        self.__name__ = "verifiers"  # TRL asks reward functions for it

    def __call__(
        self, completions: list[list[dict[str, str]]], completion_ids: list[list[int]], row: list[int], **_: Any
    ) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        finished = [bool(ids) and ids[-1] in self.end_ids for ids in completion_ids]
        texts = [completion[0]["content"] for completion in completions]
        self._process.stdin.write(json.dumps(list(zip(row, texts, finished, strict=True))) + "\n")
        self._process.stdin.flush()
        verdicts = json.loads(self._process.stdout.readline())
        self.right = sum(right for right, _ in verdicts) / len(verdicts)
        self.tokens = sum(map(len, completion_ids))
        return [reward for _, reward in verdicts]


class Observer(TrainerCallback):  # type: ignore[misc]
    """Notes every step and ends the training."""

    def __init__(self, clock: Clock, judge: Judge, weights: Path) -> None:
        self._clock, self._judge, self._weights = clock, judge, weights

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock.begin()

    def on_step_end(self, _: Any, __: Any, control: Any, *, model: Any, **___: Any) -> Any:
        def save() -> None:
            model.save_pretrained(self._weights)

        control.should_training_stop = self._clock.step(self._judge.right, self._judge.tokens, save)
        return control


def configure(setting: dict[str, Any], output: Path) -> GRPOConfig:
    """TRL's configuration with the values of our run, and what makes it fastest on this processor."""
    values = {
        "output_dir": str(output),
        "max_steps": setting["steps"],
        # One group per forward pass, all groups in one optimiser step: TRL's default batch size.
        "per_device_train_batch_size": setting["group_size"],
        "gradient_accumulation_steps": setting["problems_per_step"],
        "num_generations": setting["group_size"],
        "max_completion_length": setting["max_tokens"],
        "shuffle_dataset": False,
        "temperature": setting["temperature"],
        "learning_rate": setting["learning_rate"],
        "adam_beta1": setting["betas"][0],
        "adam_beta2": setting["betas"][1],
        "weight_decay": setting["weight_decay"],
        "max_grad_norm": setting["max_grad_norm"],
        "lr_scheduler_type": "constant",
        "loss_type": "grpo",
        "scale_rewards": "group",
        "epsilon": setting["clip"],
        "beta": 0.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "float32"},
        "use_cpu": True,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": setting["seed"],
    }
    return GRPOConfig(**values | setting["trl_options"])


def main() -> None:
    """Train until the clock says that it is enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder with setting.json; gets steps and weights")
    options = parser.parse_args()
    setting = json.loads((options.work / "setting.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = setting["rows"]
    for row in rows:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        if ids != row["token_ids"]:
            raise SystemExit(f"TRL's prompt differs from ours: {tokenizer.decode(ids)}")
    judge = Judge([*setting["verifiers"], str(options.work)])
    clock = Clock(setting, options.work / "steps.jsonl")
    trainer = GRPOTrainer(
        model=options.model,
        processing_class=tokenizer,
        reward_funcs=judge,
        args=configure(setting, options.work / "trl"),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"], "row": number} for number, row in enumerate(rows)]),
        callbacks=[Observer(clock, judge, options.work / "weights")],
    )
    judge.end_ids = set(trainer.eos_token_ids)
    trainer.train()
    (options.work / "done").touch()


if __name__ == "__main__":
    main()

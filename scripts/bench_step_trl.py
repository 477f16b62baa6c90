"""The TRL side of bench_step.py; runs in TRL's own environment and imports nothing of this project.

TRL's `GRPOTrainer` waits for a line on standard input before every step, and answers with a line of JSON after it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class OnDemand(TrainerCallback):  # type: ignore[misc]
    """One training step per line on standard input (`all` or `half`: which groups have reward differences)."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._started = 0.0
        self.case = ""
        self.tokens = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        print(json.dumps({"ready": True}), file=self._answers, flush=True)
        self.case = sys.stdin.readline().strip()
        if not self.case:
            raise SystemExit
        self.tokens = 0
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = time.perf_counter() - self._started
        print(json.dumps({"seconds": seconds, "tokens": self.tokens}), file=self._answers, flush=True)

    def reward(self, completion_ids: list[list[int]], differs: list[bool], **_: Any) -> list[float]:
        """The responses of a group get 0 to 1 in even steps; in case `half`, those of every second group get 0."""
        size = len(completion_ids) // 4
        self.tokens += sum(map(len, completion_ids))
        return [
            (index % size) / (size - 1) if self.case == "all" or differ else 0.0 for index, differ in enumerate(differs)
        ]


def main() -> None:
    """Train until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the prompts and TRL's output")
    options = parser.parse_args()
    # TRL prints progress on standard output; the answers keep their own handle of it.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr
    setting = json.loads((options.work / "setting.json").read_text())
    on_demand = OnDemand(answers)
    rows = [
        {"prompt": [{"role": "user", "content": text}], "differs": index % 2 == 0}
        for index, text in enumerate(setting["prompts"])
    ]
    config = GRPOConfig(
        output_dir=str(options.work / "trl"),
        max_steps=setting["steps"],
        # One group per forward pass, all groups in one optimiser step: TRL's default batch size.
        per_device_train_batch_size=setting["group_size"],
        gradient_accumulation_steps=len(rows),
        num_generations=setting["group_size"],
        max_completion_length=setting["max_tokens"],
        shuffle_dataset=False,
        temperature=1.0,
        learning_rate=setting["learning_rate"],
        lr_scheduler_type="constant",
        loss_type="grpo",
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    GRPOTrainer(
        model=options.model,
        reward_funcs=on_demand.reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[on_demand],
    ).train()


if __name__ == "__main__":
    main()

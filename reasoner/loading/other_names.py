"""What the keys of TRL, verl and earlier versions are called here: for messages about unknown keys, and for
docs/from-trl-and-verl.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TERM = "gro.terms.NAME"
"""NAME: the term's name; a preset's only term is called as the preset"""
MOST = 2
"""names of ours that a message gives"""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A key of another framework."""

    framework: str
    name: str
    """as it is written there; with dots where it is nested"""
    key: str
    """our key; empty: there is none"""
    note: str = ""
    """how it differs, or what to do in its place; the end of a sentence"""


_WARPED = (
    "training samples come from the very distribution whose log-probabilities are trained; use sampling.temperature"
)
_TRL = (
    ("model_name_or_path", "model.path"),
    ("torch_dtype", "model.dtype"),
    ("dtype", "model.dtype"),
    ("bf16", "model.dtype", "true is 'bfloat16': over float32 master weights"),
    ("trust_remote_code", "model.trust_remote_code"),
    ("chat_template_kwargs", "model.chat_template_kwargs"),
    ("dataset_name", "data.train.hub"),
    ("dataset_train_split", "data.train.split"),
    ("dataset_test_split", "data.eval.split"),
    ("output_dir", "run.output", "every run gets its own folder below it"),
    ("max_steps", "run.steps"),
    ("num_train_epochs", "run.steps", "problems x epochs / learning.problems_per_step"),
    (
        "per_device_train_batch_size",
        "learning.problems_per_step",
        "problems of a step on all GPUs together, each with sampling.group_size responses; "
        "learning.token_budget is what goes through the model at once",
    ),
    ("gradient_accumulation_steps", "learning.token_budget", "a batch is cut by tokens, however large it is"),
    ("steps_per_generation", "learning.updates_per_step", "optimiser steps per sampled batch"),
    ("num_iterations", "learning.epochs", "passes over a sampled batch"),
    ("num_generations", "sampling.group_size"),
    ("max_completion_length", "sampling.max_tokens"),
    ("max_prompt_length", "sampling.max_prompt_tokens", "longer prompts are refused, never cut"),
    ("max_length", "data.pairs.max_tokens", "of demonstrations data.demos.max_tokens"),
    ("temperature", "sampling.temperature"),
    *((key, "", _WARPED) for key in ("top_p", "top_k", "repetition_penalty")),
    ("use_vllm", "sampling.engine", "true is 'vllm'"),
    ("vllm_mode", "sampling.servers", "'colocate' is an empty list"),
    ("vllm_server_base_url", "sampling.servers", "started with `reasoner serve`"),
    ("vllm_server_host", "sampling.servers", "whole addresses, http://HOST:PORT"),
    ("vllm_gpu_memory_utilization", "sampling.memory_share"),
    ("vllm_tensor_parallel_size", "sampling.tensor_parallel"),
    ("vllm_enable_sleep_mode", "", "a colocated engine always sleeps during the update"),
    ("vllm_importance_sampling_correction", f"{TERM}.correction.kind", "'truncate' or 'mask'"),
    ("vllm_importance_sampling_cap", f"{TERM}.correction.high"),
    ("beta", f"{TERM}.kl.coefficient", f"of GRPO and RLOO; of DPO, IPO and KTO {TERM}.evidence.beta"),
    ("epsilon", f"{TERM}.link.low"),
    ("epsilon_high", f"{TERM}.link.high"),
    ("delta", f"{TERM}.link.dual"),
    (
        "loss_type",
        "gro.preset",
        f"`reasoner algorithms list` has the methods; {TERM}.aggregation.kind is the normalisation alone",
    ),
    ("scale_rewards", f"{TERM}.credit.scale"),
    ("importance_sampling_level", f"{TERM}.evidence.unit", "'sequence' is 'response'"),
    ("mask_truncated_completions", f"{TERM}.mask_truncated"),
    ("label_smoothing", f"{TERM}.link.smoothing"),
    ("desirable_weight", f"{TERM}.link.desirable"),
    ("undesirable_weight", f"{TERM}.link.undesirable"),
    (
        "reward_funcs",
        "rewards",
        "a list of tables, [[rewards]], with source = NAME; functions of yours by --plugin FILE",
    ),
    ("reward_weights", "rewards.NAME.weight"),
    ("learning_rate", "learning.learning_rate"),
    ("lr_scheduler_type", "learning.decay"),
    ("warmup_steps", "learning.warmup_steps"),
    ("warmup_ratio", "learning.warmup_steps", "a number of optimiser steps"),
    ("weight_decay", "learning.weight_decay"),
    ("adam_beta1", "learning.betas", "both in one list"),
    ("adam_beta2", "learning.betas", "both in one list"),
    ("max_grad_norm", "learning.max_grad_norm"),
    ("gradient_checkpointing", "learning.gradient_checkpointing"),
    ("lora_r", "lora.rank"),
    ("lora_alpha", "lora.alpha"),
    ("lora_target_modules", "lora.targets"),
    ("cliprange_value", "critic.value_clip"),
    ("gamma", f"{TERM}.credit.discount"),
    ("lam", f"{TERM}.credit.trace"),
    ("eval_steps", "evaluation.every"),
    ("save_steps", "run.checkpoint_every"),
    ("save_total_limit", "run.keep_last", "and run.keep_best for the best ones"),
    ("load_best_model_at_end", "run.keep_best", "then `reasoner export RUN --step best --to DIR`"),
    ("report_to", "trackers", "a table each, such as [trackers.wandb]"),
    ("logging_steps", "", "every step is in metrics.jsonl"),
    ("log_completions", "", "every response is in rollouts/"),
    ("resume_from_checkpoint", "", "`reasoner run --resume RUN`"),
    ("push_to_hub", "", "`reasoner export RUN --to DIR` writes a folder with a model card"),
    ("seed", "run.seed"),
)
_ACTOR, _ROLLOUT, _MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
_VERL = (
    ("data.train_files", "data.train.path"),
    ("data.val_files", "data.eval.path"),
    ("data.prompt_key", "data.train.columns", "rows of verl are recognised without it"),
    ("data.filter_overlong_prompts", "data.train.too_long", "true is 'drop'"),
    ("data.train_batch_size", "learning.problems_per_step"),
    ("data.max_prompt_length", "sampling.max_prompt_tokens", "longer prompts are refused, never cut"),
    ("data.max_response_length", "sampling.max_tokens"),
    ("data.shuffle", "data.train.shuffle"),
    ("data.seed", "run.seed"),
    (f"{_MODEL}.path", "model.path"),
    (f"{_MODEL}.trust_remote_code", "model.trust_remote_code"),
    (f"{_MODEL}.enable_gradient_checkpointing", "learning.gradient_checkpointing"),
    (f"{_MODEL}.lora_rank", "lora.rank"),
    (f"{_MODEL}.lora_alpha", "lora.alpha"),
    (f"{_MODEL}.target_modules", "lora.targets"),
    (f"{_MODEL}.use_remove_padding", "", "sequences are always packed"),
    (f"{_ACTOR}.optim.lr", "learning.learning_rate"),
    (f"{_ACTOR}.lr", "learning.learning_rate"),
    (f"{_ACTOR}.optim.lr_warmup_steps", "learning.warmup_steps"),
    (f"{_ACTOR}.optim.lr_scheduler_type", "learning.decay"),
    (f"{_ACTOR}.optim.weight_decay", "learning.weight_decay"),
    (f"{_ACTOR}.grad_clip", "learning.max_grad_norm"),
    (
        f"{_ACTOR}.ppo_mini_batch_size",
        "learning.updates_per_step",
        "how many mini-batches: data.train_batch_size / ppo_mini_batch_size",
    ),
    (f"{_ACTOR}.ppo_micro_batch_size_per_gpu", "learning.token_budget", "in tokens, not sequences"),
    (f"{_ACTOR}.ppo_max_token_len_per_gpu", "learning.token_budget"),
    (f"{_ACTOR}.use_dynamic_bsz", "learning.token_budget", "it always is"),
    (f"{_ACTOR}.ppo_epochs", "learning.epochs"),
    (f"{_ACTOR}.clip_ratio", f"{TERM}.link.low", "and link.high"),
    (f"{_ACTOR}.clip_ratio_low", f"{TERM}.link.low"),
    (f"{_ACTOR}.clip_ratio_high", f"{TERM}.link.high"),
    (f"{_ACTOR}.clip_ratio_c", f"{TERM}.link.dual"),
    (f"{_ACTOR}.loss_agg_mode", f"{TERM}.aggregation.kind"),
    (f"{_ACTOR}.policy_loss.loss_mode", "gro.preset", "`reasoner algorithms list` has the methods"),
    (f"{_ACTOR}.entropy_coeff", f"{TERM}.entropy"),
    (f"{_ACTOR}.use_kl_loss", f"{TERM}.kl.place"),
    (f"{_ACTOR}.kl_loss_coef", f"{TERM}.kl.coefficient"),
    (f"{_ACTOR}.kl_loss_type", f"{TERM}.kl.estimator"),
    (f"{_ACTOR}.strategy", "learning.engine", "'torch' or 'deepspeed'"),
    (f"{_ACTOR}.fsdp_config.param_offload", "learning.deepspeed.offload_parameters"),
    (f"{_ACTOR}.fsdp_config.optimizer_offload", "learning.deepspeed.offload_optimizer"),
    (f"{_ROLLOUT}.name", "sampling.engine"),
    (f"{_ROLLOUT}.n", "sampling.group_size"),
    (f"{_ROLLOUT}.temperature", "sampling.temperature"),
    *((f"{_ROLLOUT}.{key}", "", _WARPED) for key in ("top_p", "top_k")),
    (f"{_ROLLOUT}.gpu_memory_utilization", "sampling.memory_share"),
    (f"{_ROLLOUT}.tensor_model_parallel_size", "sampling.tensor_parallel"),
    (f"{_ROLLOUT}.free_cache_engine", "", "a colocated engine always sleeps during the update"),
    (f"{_ROLLOUT}.val_kwargs.n", "evaluation.samples"),
    (f"{_ROLLOUT}.val_kwargs.temperature", "evaluation.temperature"),
    (f"{_ROLLOUT}.calculate_log_probs", "", "the sampler's log-probabilities always come along and are checked"),
    ("algorithm.adv_estimator", "gro.preset", "`reasoner algorithms list` has the methods"),
    ("algorithm.norm_adv_by_std_in_grpo", f"{TERM}.credit.scale"),
    ("algorithm.use_kl_in_reward", f"{TERM}.kl.place"),
    ("algorithm.kl_ctrl.kl_coef", f"{TERM}.kl.coefficient"),
    ("algorithm.gamma", f"{TERM}.credit.discount"),
    ("algorithm.lam", f"{TERM}.credit.trace"),
    ("algorithm.filter_groups.enable", "sampling.refills", "how many times a step; 0 is off"),
    ("algorithm.filter_groups.max_num_gen_batches", "sampling.refills"),
    ("critic.optim.lr", "critic.learning_rate"),
    ("critic.model.path", "critic.path"),
    ("critic.cliprange_value", "critic.value_clip"),
    ("custom_reward_function.path", "plugins", "or --plugin FILE, and [[rewards]] with source = NAME"),
    ("reward_model.model.path", "rewards.reward_model.options", "with source = 'reward_model'"),
    ("trainer.total_training_steps", "run.steps"),
    ("trainer.total_epochs", "run.steps", "problems x epochs / learning.problems_per_step"),
    ("trainer.n_gpus_per_node", "run.ranks", "`reasoner run TASK --gpus N`"),
    ("trainer.nnodes", "", "`reasoner run TASK --hostfile FILE`, or srun"),
    ("trainer.save_freq", "run.checkpoint_every"),
    ("trainer.test_freq", "evaluation.every"),
    ("trainer.val_before_train", "", "the model is always evaluated before training"),
    ("trainer.max_actor_ckpt_to_keep", "run.keep_last"),
    ("trainer.logger", "trackers", "a table each, such as [trackers.wandb]"),
    ("trainer.default_local_dir", "run.output", "every run gets its own folder below it"),
    ("trainer.resume_mode", "", "`reasoner run --resume RUN`"),
)
_GONE = {
    **dict.fromkeys(("sampling.top_p", "sampling.top_k", "sampling.repetition_penalty"), f"leave out: {_WARPED}"),
    "sampling.mode": "leave out: sampling.servers alone says whether servers sample",
    "sampling.ahead": "set sampling.max_staleness: the same number",
    "learning.reference": "leave out: a reference policy is there exactly when a term compares with one",
}
"""key that an earlier version had -> what to do"""
_NAMES = {"TRL": _TRL, "verl": _VERL}
RENAMED = tuple(Renamed(framework, *row) for framework, rows in _NAMES.items() for row in rows)


def removed(path: Sequence[str]) -> str:
    """What to do about a key that an earlier version had and this one has not; empty: it had no such key."""
    return _GONE.get(".".join(path), "")


def renamed(path: Sequence[str], own: frozenset[str]) -> str:
    """` TRL's num_generations is sampling.group_size.` for a key that is unknown here, or an empty string.

    The path may be given whole or from its end (`rollout.n`). Its last part alone is enough where no key here has it.

    Args:
        path: the parts of the key.
        own: last parts of the keys that there are here.
    """
    matches = list(_matching(path, own))
    longest = max((shared for shared, _ in matches), default=0)
    best = [entry for shared, entry in matches if shared == longest]
    first = {(entry.framework, entry.key): entry for entry in reversed(best)}
    sentences = [
        f" {renamed_key.framework}'s {renamed_key.name} is {_advice(renamed_key)}."
        for renamed_key in best
        if renamed_key in first.values()
    ]
    return "".join(sentences[:MOST])


def _matching(path: Sequence[str], own: frozenset[str]) -> Iterator[tuple[int, Renamed]]:
    """The entries that end as the path does, with how many parts they share."""
    for renamed_key in RENAMED:
        parts = renamed_key.name.split(".")
        shared = 0
        while shared < min(len(parts), len(path)) and parts[-1 - shared] == path[-1 - shared]:
            shared += 1
        whole = shared == len(parts) == len(path)
        if shared and (whole or shared > 1 or path[-1] not in own):
            yield shared, renamed_key


def _advice(renamed_key: Renamed) -> str:
    if not renamed_key.key:
        return f"not needed here: {renamed_key.note}"
    return f"{renamed_key.key} here" + (f" ({renamed_key.note})" if renamed_key.note else "")


def table(framework: str) -> str:
    """The names of a framework and ours, as Markdown."""
    rows = [
        f"| `{renamed_key.name}` | {f'`{renamed_key.key}`' if renamed_key.key else '-'} | {renamed_key.note} |"
        for renamed_key in RENAMED
        if renamed_key.framework == framework
    ]
    return "\n".join([f"| {framework} | here | |", "|---|---|---|", *rows]) + "\n"

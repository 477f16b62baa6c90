"""`reasoner.run`, and the runs that it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasoner.api.arguments import Plugin, check_plugins, settings
from reasoner.api.command import call
from reasoner.api.frames import columns_of, to_frame, verdict
from reasoner.api.page import TOKENS, Report, report_of
from reasoner.api.plugins import keep, place
from reasoner.errors import ScoringError, UserError
from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.records import Rollout
from reasoner.runs.find import find_run
from reasoner.runs.model import Which, run_model
from reasoner.runs.reader import RunState, SavedRun, read_run

if TYPE_CHECKING:
    from reasoner.runs.folder import Evaluated


class Run:
    """A run folder, in any state. Everything is read when it is accessed; of an unfinished run, what it has committed.

    Raises:
        DataError: at an access, because a file in the folder is missing or malformed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._saved.name

    @property
    def state(self) -> RunState:
        """`running`, `finished`, `stopped` (out of time), `failed`, `interrupted` or `killed`."""
        return self._saved.state

    @property
    def steps(self) -> int:
        """Committed training steps."""
        return self._saved.steps

    @property
    def config(self) -> Mapping[str, Any]:
        """The complete configuration, as nested tables."""
        return self._saved.config

    @property
    def metrics(self) -> Any:
        """A row per committed step, a column per figure (docs/metrics.md): a frame of pandas, or of polars.

        Raises:
            MissingDependencyError: neither is installed.
        """
        return to_frame(columns_of(self._saved.metrics))

    @property
    def evaluations(self) -> Any:
        """A row per evaluation and figure: `step`, `figure`, `unit`, `value` and its 95% interval `low` to `high`. A
        frame as `metrics`."""
        return to_frame(columns_of(row for evaluated in self._saved.evaluations for row in _figures(evaluated)))

    def rollouts(self, step: int, *, evaluation: bool = False) -> Any:
        """The responses of a training step, a row each, or of the evaluation after it: a frame as `metrics`.

        Columns: `step`, `problem` (its id), `question` (the last message), `answer` (the reference), `fields` (the
        problem's row), `sample`, `response`, `tokens` (how many), `finish_reason`, `policy_version`, `reward`,
        `credit`, `dropped`; per reward source `reward/NAME` (None: not applicable, or failed), `note/NAME` and
        `failure/NAME`; and per token, as lists, `token_ids`, `token_logprobs` and `token_weights`.

        Raises:
            UserError: there are none of that step.
        """
        kind = "eval" if evaluation else "step"
        file = self.folder / "rollouts" / f"{kind}-{step:06}.parquet"
        if not file.is_file():
            steps = [int(path.stem.rpartition("-")[2]) for path in sorted(file.parent.glob(f"{kind}-*.parquet"))]
            what = "evaluations after the steps" if evaluation else "steps"
            raise UserError(
                f"{self.folder} has no responses of {'the evaluation after ' if evaluation else ''}step {step}. It has "
                f"those of the {what}: {', '.join(map(str, steps)) or 'none'}."
            )
        return to_frame(columns_of(map(_row, read_parquet(file, Rollout))))

    @property
    def model_path(self) -> Path:
        """Folder of the newest weights: the trained model, or the newest checkpoint's where the run has not ended or
        trained on since.

        Raises:
            UserError: there are none.
        """
        return self.model()

    def model(self, step: Which = "last") -> Path:
        """Folder of the weights after a step: `last`, `best` (the step with the best evaluation) or its number.

        Raises:
            UserError: there are no such weights; the message names those that there are.
        """
        return run_model(self._saved, step).folder

    def report(self, tokens: int = TOKENS) -> Report:
        """The report as a page that a notebook shows; `report().save(FILE)` writes it.

        Args:
            tokens: response tokens in it; beyond that, whole groups are left out, evenly.
        """
        return report_of(self.folder, tokens)

    def __repr__(self) -> str:
        saved = self._saved
        return f"<Run {self.folder}: {saved.state}, {saved.steps} of {saved.planned_steps} steps>"

    @property
    def _saved(self) -> SavedRun:
        return read_run(self.folder)


def open_run(path: str | Path) -> Run:
    """A run by its folder, or by the beginning of its name below `runs/`.

    Raises:
        UserError: there is none, or several begin so.
    """
    return Run(find_run(str(path)))


def run(
    task: str | Path | None = None,
    *,
    profile: str | None = None,
    config: Mapping[str, Any] | None = None,
    plugins: Iterable[Plugin] = (),
    resume: Run | str | Path | None = None,
    accept_changes: bool = False,
) -> Run:
    """Train a model on a task, as `reasoner run` does, and return the run when it has ended.

        run = reasoner.run("math-gsm8k", profile="laptop", config={"run.steps": 3})

    It starts that command as a child process and shows what it prints. So nothing of it stays in this process, which
    may be a notebook's kernel with an event loop: no memory of the GPU, no process, no thread, no signal handler. An
    interrupt (Ctrl-C, or the notebook's stop button) ends the run, which saves where it is; when this process is
    killed, the run ends too. `reasoner.api.command` says more.

    Args:
        task: name of a task, or a TOML file of your own.
        profile: of the task; None: by whether there is an NVIDIA GPU.
        config: what `--set` takes: values by dotted keys, or nested tables. `{"run.ranks": 8}` trains on 8 GPUs.
        plugins: functions marked with `@reward`, which `config` names as rewards, and Python files with hooks. A
            function is written to a file below `run.output`, with what it uses; `reasoner.api.shipping` has the rules.
        resume: a run to resume, in the place of a task; `config` may change what is safe to change.
        accept_changes: resume although plugins, data or the model have changed since (`--accept-changes`).

    Raises:
        UserError: the configuration (`ConfigError`), data, model or verifiers are not as they must be.
        RunError: the run could not continue; what was committed is on disk.
        OutOfTimeError: `run.max_hours` is over; it can be resumed.
        KeyboardInterrupt: it was interrupted, and has saved.
    """
    own_plugins, sets = check_plugins(plugins), settings(config)
    if resume is None:
        if task is None:
            raise UserError("nothing to train. Name a task (`reasoner tasks list`), or a run to resume: resume=RUN.")
        files = place(own_plugins, lambda files: load_config(str(task), profile, (), sets, files))
        arguments = [*(["--profile", profile] if profile is not None else []), *_repeat_option("--plugin", files)]
        ending = ["--", str(task)]
    else:
        if task is not None or profile is not None:
            raise UserError("a resumed run keeps its own task and profile: leave them out with resume=RUN.")
        folder = resume.folder if isinstance(resume, Run) else find_run(str(resume))
        arguments, ending = ["--resume", str(folder)], []
        if own_plugins:
            sets += settings({"plugins": _merge_plugins(folder, own_plugins)})
        if accept_changes:
            arguments.append("--accept-changes")
    arguments += _repeat_option("--set", sets)
    try:
        return Run(call("run", *arguments, *ending, resume="reasoner.run(resume={folder!r})"))
    except ScoringError as error:
        error.add_note("With a corrected function, add to resume: plugins=[...], accept_changes=True")
        raise


def _merge_plugins(folder: Path, plugins: list[Plugin]) -> list[str]:
    """The plugins of a resumed run: its own, with the caller's in the place of those of the same name."""
    files = keep(plugins, folder.parent)
    names = {Path(file).name for file in files}
    return [*(own for own in read_run(folder).config.get("plugins", ()) if Path(own).name not in names), *files]


def _repeat_option(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _figures(evaluated: Evaluated) -> list[dict[str, Any]]:
    return [
        {
            "step": evaluated.step,
            "figure": estimate.name,
            "unit": estimate.unit,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for estimate in evaluated.evaluation.figures
    ]


def _row(rollout: Rollout) -> dict[str, Any]:
    problem, response = rollout.problem, rollout.response
    row: dict[str, Any] = {
        "step": rollout.step,
        "problem": problem.id,
        "question": problem.messages[-1].content if problem.messages else "",
        "answer": problem.answer,
        "fields": dict(problem.fields),
        "sample": rollout.sample,
        "response": response.text,
        "tokens": sum(response.policy_mask),
        "turns": sum(turn.role == "assistant" for turn in response.turns) or 1,
        "finish_reason": response.finish_reason,
        "policy_version": response.policy_version,
        "reward": rollout.reward,
        "credit": rollout.credit,
        "dropped": rollout.dropped,
    }
    for part in rollout.components:
        row |= verdict(part)
    return row | {
        "token_ids": list(response.token_ids),
        "token_written": list(response.policy_mask),
        "token_logprobs": list(response.sampler_logprobs),
        "token_weights": None if rollout.weights is None else list(rollout.weights),
    }

"""Sections on problems, offline responses and prompts: `[data]`, `[prompt]`, `[curriculum]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner.config.section import Positive, Section

RowPolicy = Literal["refuse", "drop"]
"""handling of rows that cannot be used"""
DuplicatePolicy = Literal["refuse", "drop", "keep"]
"""handling of rows that say the same as an earlier one of their source"""
MissingPolicy = Literal["refuse", "empty"]
"""handling of values that a template uses and a row does not have"""


class PromptConfig(Section):
    """`[prompt]`: how a data row becomes a prompt."""

    format: Literal["chat", "plain"] = "chat"
    """`chat` writes a conversation with the model's chat template; `plain`, for base models, uses the text that
    `template` makes, with `system` and `examples` among its variables."""
    system: str = ""
    """System message; empty for none."""
    system_role: Literal["system", "user"] = "system"
    """Role that carries the system message. `user` puts it before the first user message, for chat templates that drop
    or refuse system messages."""
    template: str = "{{ question }}"
    """Jinja template of the user message (with `format = "plain"`, of the whole prompt); its variables are the row's
    columns."""
    examples: list[dict[str, str]] = Field(default_factory=list)
    """Worked examples shown before the question as earlier turns, each `{user = "...", assistant = "..."}`."""

    @model_validator(mode="after")
    def _two_turns(self) -> Self:
        for example in self.examples:
            if set(example) != {"user", "assistant"}:
                raise ValueError(f"examples: each needs exactly `user` and `assistant`, got {sorted(example)}")
        return self


class SourceConfig(Section):
    """`[data.train]`, `[data.eval]`: where problems come from: exactly one of `path`, `hub`, `generator`."""

    path: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Local file (.jsonl, .json, .csv, .tsv, .parquet), a pattern such as `shards/*.parquet`, or a list of them. In a
    task or configuration file, relative to that file."""
    hub: str | None = None
    """Id of a data set on the Hugging Face hub."""
    generator: str | None = None
    """Name of a registered generator of problems, for example `gsm_symbolic`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the generator, or of `datasets.load_dataset` (`name`, `revision`)."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Where `question`, `answer` and other template variables are in the data: a field's name, a dotted path such as
    `reward_model.ground_truth` or `solutions.0`, or a Jinja template of the row such as `{{ choices[answer] }}`.
    Without it, rows of verl and TRL, conversations and multiple choice are recognised."""
    limit: Positive | None = None
    """Number of rows used; `none` uses all. A generator needs a number."""
    shuffle: bool = True
    """Shuffle the rows with the run's seed. `data.eval` is shuffled the same way for every seed, so that runs with
    different seeds are evaluated on the same problems."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of a generator; it must differ between training and evaluation."""

    missing: MissingPolicy = "refuse"
    """Handling of a value that a template uses and a row does not have, or has as null: `refuse` makes it a row that
    cannot be used, `empty` renders it as nothing. A name that no row has is refused in any case."""
    on_bad_row: RowPolicy | None = None
    """Handling of this source's rows that cannot be used; `none` does as `data.on_bad_row` says."""
    too_long: RowPolicy | None = None
    """Handling of this source's prompts that are too long; `none` does as `on_bad_row` says."""
    duplicates: DuplicatePolicy | None = None
    """Handling of this source's rows that repeat an earlier one word for word, question and answer: `refuse`, `drop`
    (the first one stays) or `keep`; `none` does as `on_bad_row` says, and keeps those of a generator."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [key for key in ("path", "hub", "generator") if getattr(self, key) is not None]
        if len(origins) != 1:
            raise ValueError(f"exactly one of path, hub, generator is needed; got {origins or 'none of them'}")
        if self.generator is not None and self.limit is None:
            raise ValueError("a generator needs `limit`, the number of problems")
        return self


class OfflineConfig(SourceConfig):
    """`[data.pairs]`, `[data.labelled]`, `[data.demos]`: responses that were not sampled by this run."""

    per_step: Positive | None = None
    """Rows per training step; `none` takes `learning.problems_per_step`."""
    max_tokens: Positive = 1024
    """Most tokens of a prompt together with its longest response; longer rows are handled as `too_long`
    says."""


class DataConfig(Section):
    """`[data]`: problems to train and evaluate on, and offline responses."""

    train: SourceConfig | None = None
    """Problems to train on; needed by terms that read online groups."""
    eval: SourceConfig | None = None
    """Problems to evaluate on."""
    pairs: OfflineConfig | None = None
    """Preference pairs with the columns `prompt`, `chosen`, `rejected`."""
    labelled: OfflineConfig | None = None
    """Single responses with a verdict: `prompt`, `completion`, `label`."""
    demos: OfflineConfig | None = None
    """Demonstrations for supervised terms: `prompt` and `completion`, or `messages`."""
    overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """Handling of training problems that are also evaluation problems, apart from white space, case and punctuation:
    `refuse` stops before training, `drop` leaves them out, `allow` keeps them. Generated ones are always left out
    unless allowed."""
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the training rows held out for evaluation in place of `data.eval`, also of `pairs`, `labelled` and
    `demos`. The same rows are held out for every `run.seed`."""
    on_bad_row: RowPolicy = "refuse"
    """Handling of rows that cannot be used (an empty answer, a missing field, a prompt that is too long, a duplicate):
    `refuse` stops before training with a list of them; `drop` leaves them out, and reports how many. A source has its
    own `on_bad_row`, `too_long` and `duplicates`."""

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """The data sets that are set, by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, SourceConfig)}


class CurriculumConfig(Section):
    """`[curriculum]`: which training problems a step takes, given how past groups on them went."""

    kind: Literal["none", "pass-rate"] = "none"
    """`none` takes every problem once per epoch. `pass-rate` prefers problems that are solved about half of the time,
    and rests those that are always or never solved for some epochs."""
    longest_rest: Positive = 8
    """Longest rest of a problem, in epochs."""
    parts: Literal["fixed", "pass-rate"] = "fixed"
    """Shares of the parts of a `[[mixture]]`: `fixed` by their weights; `pass-rate` multiplies each weight by what the
    part's last groups had to teach, which is most where half of the responses are right."""

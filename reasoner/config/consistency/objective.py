"""What the terms of GRO read and need."""

from __future__ import annotations

from reasoner.config.sections import Sections
from reasoner.gro.spec.schedules import mistake
from reasoner.gro.spec.terms import Teacher


def check_sources(config: Sections) -> None:
    """Every term has what it reads."""
    for name, term in config.gro.terms.items():
        if term.source == "online":
            missing = [
                key
                for key, value in (
                    ("data.train", config.data.train),
                    ("data.eval (or data.holdout = 0.05)", config.data.eval or config.data.holdout),
                    ("rewards", config.rewards),
                    ("evaluation", config.evaluation),
                )
                if not value
            ]
            if missing:
                raise ValueError(
                    f"gro.terms.{name} reads online groups and needs {', '.join(missing)}, which is not set"
                )
        elif getattr(config.data, term.source) is None:
            instead = (
                ""
                if term.source == "demos"
                else f"; to use online groups instead: --set gro.terms.{name}.source=online"
            )
            raise ValueError(
                f"gro.terms.{name}.source = {term.source!r} needs the data set [data.{term.source}], which is not set: "
                f"--set data.{term.source}.path=FILE{instead}"
            )


def check_weights(config: Sections) -> None:
    """Some term has a weight."""
    if config.gro.terms and not any(term.weight for term in config.gro.terms.values()):
        raise ValueError(f"gro.terms: every weight is 0, so nothing would be learned: {', '.join(config.gro.terms)}")
    for name, term in config.gro.terms.items():
        if reason := mistake(term.schedule, config.run.steps):
            raise ValueError(f"gro.terms.{name}.schedule: {reason}")


def check_credit_by_turn(config: Sections) -> None:
    """There are rewards of single turns where a term credits turns."""
    names = [name for name, term in config.gro.terms.items() if getattr(term.credit, "level", "") == "turn"]
    if not names:
        return
    key = f"gro.terms.{names[0]}.credit.level = 'turn'"
    if config.environment is None or not config.environment.name:
        raise ValueError(
            f"{key} credits the turns of a response, and no environment gives them rewards: set environment.name"
        )
    paid = [reward for reward in config.rewards if reward.source == "environment"]
    if not paid or paid[0].gate or not paid[0].weight:
        raise ValueError(
            f"{key} credits each turn with what the environment gives from it on, which is no part of the reward: add "
            "the reward source 'environment', no gate and with a weight"
        )


def check_critic(config: Sections) -> None:
    """One critic serves all its terms, so they must agree on what it predicts."""
    terms = [term for term in config.gro.terms.values() if term.term.needs_critic]
    for other in terms[1:]:
        if (other.credit, other.kl) != (terms[0].credit, terms[0].kl):
            raise ValueError(
                "gro.terms: terms with credit.baseline = 'critic' share one critic: give them equal credit and kl"
            )


def check_teacher(config: Sections) -> None:
    """One teacher serves all its terms, and knows something that the policy does not."""
    teacher, untouched = config.teacher, type(config.teacher)()
    credits = {name: term.credit for name, term in config.gro.terms.items() if isinstance(term.credit, Teacher)}
    if not credits:
        if config.gro.terms and teacher != untouched:
            raise ValueError(
                "teacher has no effect: no term's credit is a teacher's; take a method with one (opd, opsd, grpo+opd), "
                "or leave the section out"
            )
        return
    seen = {credit.sees for credit in credits.values()}
    if len(seen) > 1:
        raise ValueError(f"gro.terms: {', '.join(credits)} share one teacher: give them the same credit.sees")
    name = next(iter(credits))
    if teacher.path is None and seen == {"prompt"}:
        raise ValueError(
            f"gro.terms.{name} needs teacher.path, not set: the initial model knows no more than the policy that "
            "starts as it. Name a teacher with the same tokenizer, --set teacher.path=FOLDER, or let it see the "
            f"solution: --set gro.terms.{name}.credit.sees=solution"
        )
    if teacher.path is None:
        for key in ("servers", "dtype"):
            if getattr(teacher, key):
                raise ValueError(
                    f"teacher.{key} needs teacher.path; without it the initial model, loaded here, teaches"
                )
    if seen == {"prompt"} and teacher.template != untouched.template:
        raise ValueError(
            "teacher.template has no effect with credit.sees = 'prompt': the teacher reads what the policy does"
        )
    if teacher.servers and config.sampling.temperature != 1.0:
        raise ValueError(
            f"teacher.servers with sampling.temperature = {config.sampling.temperature}: vLLM gives the "
            "log-probabilities of given tokens at temperature 1; set sampling.temperature = 1, or leave servers out"
        )

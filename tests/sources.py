"""Rows of one source as problems, or as groups of written responses, with the bad ones refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reasoner.config import OfflineConfig, PromptConfig, SourceConfig
from reasoner.data.offline import OfflineData, OfflineKind, read_offline, render_offline
from reasoner.data.problems import ProblemLoader
from reasoner.data.prompts.renderer import Renderer
from reasoner.data.row_report import RowReport
from reasoner.plugins.hookspecs import Generator
from reasoner.records import Problem


def load_problems(
    source: SourceConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    seed: int,
    section: str = "data.train",
    *,
    needs_answer: bool = True,
) -> list[Problem]:
    report = RowReport()
    problems = ProblemLoader(prompt, generators, report, needs_answer=needs_answer).problems(source, seed, section)
    report.settle()
    return list(problems)


def load_offline(
    kind: OfflineKind,
    config: OfflineConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    renderer: Renderer,
    seed: int,
    *,
    holdout: float | None = None,
    report: RowReport | None = None,
) -> OfflineData:
    own = report or RowReport()
    rows = read_offline(kind, config, prompt, generators, seed, holdout, own)
    data = render_offline(rows, renderer, seed, holdout, own)
    notes = () if report else own.settle()
    return replace(data, notes=(*notes, *data.notes))

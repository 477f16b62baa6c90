"""What the benchmarks share: options, the spread of a figure, the page that they write, memory while they work."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil

PAGES = Path(__file__).resolve().parents[1] / "docs" / "validation"
"""what `scripts/document.py` puts into the documentation"""


def parser_of(description: str | None, page: str = "") -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring.

    Args:
        page: name of the file in `PAGES` that the script writes with `--write`; empty: none.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if page:
        parser.add_argument("--write", action="store_true", help=f"write docs/validation/{page}")
    return parser


def write_page(page: str, source: str, text: str) -> None:
    """Write a page of `PAGES`, with a comment that says where it comes from."""
    (PAGES / page).write_text(f"<!-- written by scripts/{source} -->\n{text}\n", encoding="utf-8")


def write_block(page: str, source: str, text: str) -> None:
    """Write what a script measured into the block of a page of `PAGES` that has its name; the prose around it stays.

    Raises:
        ValueError: the page has no such block.
    """
    file = PAGES / page
    mark, end = f"<!-- written by scripts/{source} -->\n", "<!-- end -->"
    before, begun, rest = file.read_text(encoding="utf-8").partition(mark)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"{file} has no block that begins with {mark.strip()!r} and ends with {end!r}: add one")
    file.write_text(f"{before}{mark}{text}\n{end}{after}", encoding="utf-8")


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Median and range: `1.0 [0.9, 1.2]`."""
    return f"{median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


@contextmanager
def peak(pid: int, taken: Callable[[Sequence[psutil.Process]], float], interval_s: float) -> Iterator[list[float]]:
    """The highest value, in a list of one, of `taken` for the process and its descendants, looked at that often."""
    highest, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(interval_s):
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                highest[0] = max(highest[0], taken([root, *root.children(recursive=True)]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()

"""What was checked of a plugin, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 2**20
UNICODE = "Ответ: ٤٢, ４２, 四十二, x² ≤ ½, ∑ 🧮👩🏽‍🔬, e\u0301, \u202e24\u202c, \u200b, \x00, \ufeff."


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist."""

    name: str
    passed: bool
    """Whether nothing is wrong, as far as it was looked at."""
    detail: str = ""
    reached: bool = True
    """False: nothing was there to look at, and `passed` says nothing."""

    @property
    def text(self) -> str:
        """What was checked, and what was found."""
        return f"{self.name}: {self.detail}" if self.detail else self.name

    def __str__(self) -> str:
        return f"{'FAIL' if not self.passed else 'ok  ' if self.reached else '-   '}  {self.text}"


@dataclass(frozen=True, slots=True)
class Checklist:
    """What a source keeps of the contract, and what not."""

    source: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed for check in self.checks)

    @property
    def unreached(self) -> tuple[str, ...]:
        """The names of what could not be checked."""
        return tuple(check.name for check in self.checks if not check.reached)

    def __str__(self) -> str:
        return "\n".join([self.source, *(f"  {check}" for check in self.checks)])

"""The section on tools and environments: `[environment]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner.config.section import Fraction, Positive, Section
from reasoner.errors import nearest


class EnvironmentConfig(Section):
    """`[environment]`: tools that the policy may call, and the environment that answers its turns. Without this section
    a response is one turn."""

    name: str = ""
    """Name of a registered environment (`reasoner environments list`); empty: there are tools alone, and a turn without
    a call ends the response."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the environment (`reasoner environments show NAME`)."""
    tools: list[str] = Field(default_factory=list)
    """Names of registered tools that the policy may call, besides those that the environment brings."""
    tool_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of the tools, in a table by tool: `[environment.tool_options.python]`."""
    format: Literal["native", "fenced", "tags"] = "native"
    """How calls are written: `native`, as the chat template of the model defines it; `fenced`, in a fenced block;
    `tags`, between `<tool>` and `</tool>`. The last two are plain text, which small models and base models can
    learn."""
    max_turns: Positive = 8
    """Most turns of the policy in one response; after the last one the response ends."""
    max_tool_calls: Positive = 16
    """Most calls in one response; further ones are answered with an error."""
    max_result_chars: Positive = 4000
    """Most characters of a message that a tool or the environment gives; the rest is cut off, which the message
    says."""
    timeout_s: Annotated[float, Field(gt=0.0)] | None = None
    """Seconds that a call may take before the worker and everything it started is killed; `none` takes the default of
    each tool and of the environment."""
    workers: Positive = 2
    """Calls that run at a time."""
    sessions: Positive = 128
    """Most responses at a time that hold a worker of their own, because their environment or one of their tools keeps
    state from turn to turn; further responses wait for one."""
    memory_mb: Positive = 2048
    """Address space that one worker may take, in MB."""
    max_failure_rate: Fraction = 0.5
    """Share of the responses of a step, or of an evaluation, whose environment may fail; above it the run stops. Of
    fewer than 8 responses all may."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if not self.name and not self.tools:
            raise ValueError(
                "has no effect without a name or tools: set name = 'NAME' or tools = ['NAME'] "
                "(`reasoner environments list`), or leave the section out"
            )
        if self.options and not self.name:
            raise ValueError("options are those of the environment, and name is not set; tools have tool_options")
        twice = next((tool for tool in self.tools if self.tools.count(tool) > 1), None)
        if twice is not None:
            raise ValueError(f"tools names {twice!r} twice; name each tool once")
        for tool in self.tool_options:
            if tool not in self.tools:
                raise ValueError(
                    f"tool_options.{tool}: {tool!r} is not among the tools.{nearest(tool, self.tools)} Tools: "
                    f"{', '.join(self.tools) or 'none'}"
                )
        return self

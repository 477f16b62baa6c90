"""Environments: tools and environments answer what the policy writes, in processes that can be killed.

Input: the turns of a response. Output: observations: messages to append, rewards, and whether the response ends.

    base.py                     the protocol
    choose.py                   what the configuration names
    service.py, session.py      the main process's side; one response of it
    host_client.py              calls as something that coroutines await
    returned.py                 what tools and environments returned, checked and cut
    workers/                    the processes in which they run
"""

from reasoner.environments.base import EnvironmentFailedError, Environments, EnvironmentSession
from reasoner.environments.choose import choose
from reasoner.environments.host_client import CallMark
from reasoner.environments.service import open_environments

__all__ = ["CallMark", "EnvironmentFailedError", "EnvironmentSession", "Environments", "choose", "open_environments"]

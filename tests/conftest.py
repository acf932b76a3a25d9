"""How the tests are spread over worker processes: end-to-end files whole, because their tests share servers and build
on each other; everything else test by test. (xdist's own `loadgroup` does nothing with today's pytest.)"""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of pytest-xdist, where it is there and on."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if "/end_to_end/" in file else nodeid

    return ByPlace(config, log)

"""What tests of several files share: builders, worlds, models, servers and clients. No test imports another."""

import pkgutil

import pytest

# A failed assertion in here shows its values too.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

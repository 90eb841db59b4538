"""Goal: the fast kernel if it works, the slow one with a reason if not, and a wish that is obeyed or refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ghostcast.fec import kernel
from ghostcast.fec.isal import IsalUnusableError
from protocol.errors import UsageError
from protocol.reed_solomon import NumpyKernel


class Isal(NumpyKernel):
    """Stands for a loaded library."""

    library = "libisal.so.2"
    version = (2, 32, 0)


@pytest.fixture
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "find_kernel", Isal)


@pytest.fixture
def _missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_kernel() -> Isal:
        raise IsalUnusableError("libisal.so.2 cannot be loaded")

    monkeypatch.setattr(kernel, "find_kernel", find_kernel)


@pytest.fixture
def _forgotten() -> Iterator[None]:
    kernel.kernel_choice.cache_clear()
    yield
    kernel.kernel_choice.cache_clear()


@pytest.mark.usefixtures("_found")
@pytest.mark.parametrize("wish", [None, "", "isal"])
def test_isal_is_chosen_where_it_works(wish: str | None) -> None:
    choice = kernel.choose_kernel(wish)
    assert isinstance(choice.kernel, Isal)
    assert choice.origin == "libisal.so.2 (2.32.0)"
    assert choice.slow_reason is None


@pytest.mark.usefixtures("_found")
def test_a_library_that_does_not_tell_its_version_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Isal, "version", (0, 0, 0))
    assert kernel.choose_kernel().origin == "libisal.so.2 (before 2.31)"


@pytest.mark.usefixtures("_missing")
def test_numpy_is_chosen_otherwise_and_says_why() -> None:
    choice = kernel.choose_kernel()
    assert choice.kernel.name == choice.origin == "numpy"
    assert choice.slow_reason is not None
    assert "libisal.so.2 cannot be loaded" in choice.slow_reason


@pytest.mark.usefixtures("_found")
def test_numpy_by_wish_needs_no_reason() -> None:
    choice = kernel.choose_kernel("numpy")
    assert choice.kernel.name == "numpy"
    assert choice.slow_reason is None


@pytest.mark.usefixtures("_missing")
def test_isal_by_wish_must_be_there() -> None:
    with pytest.raises(UsageError, match="GHOSTCAST_FEC asks for ISA-L"):
        kernel.choose_kernel("isal")


def test_another_wish_is_refused() -> None:
    with pytest.raises(UsageError, match="must be isal or numpy, not 'cuda'"):
        kernel.choose_kernel("cuda")


@pytest.mark.usefixtures("_forgotten", "_found")
def test_the_environment_is_the_wish_and_the_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "numpy")
    chosen = kernel.load_kernel()
    assert type(chosen) is NumpyKernel
    monkeypatch.setenv(kernel.VARIABLE, "isal")
    assert kernel.load_kernel() is chosen

"""Every Python snippet of the README runs, one after the other, as a reader would type them."""

import re
from pathlib import Path

import pytest

import gumbel_ext

README = Path(__file__).resolve().parent.parent / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_snippets_run_in_order() -> None:
    assert len(SNIPPETS) >= 8, "the README shows each operation"
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(README), "exec"), names)


@pytest.mark.parametrize("operation", ["softmax", "straight_through", "gumbel_softmax", "gumbel_max", "gumbel_noise"])
def test_every_operation_is_shown(operation: str) -> None:
    assert any(f"gumbel_ext.{operation}(" in snippet for snippet in SNIPPETS)
    assert callable(getattr(gumbel_ext, operation))

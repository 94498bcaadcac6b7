"""Every Python snippet of the README and of the documentation runs, page by page, as a reader would type them."""

import re
from pathlib import Path

import pytest

import gumbel_ext

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SNIPPETS = {
    name: re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name, page in PAGES.items()
}


@pytest.mark.parametrize("name", [name for name, snippets in SNIPPETS.items() if snippets])
def test_snippets_run_in_order(name: str) -> None:
    names: dict[str, object] = {}
    for snippet in SNIPPETS[name]:
        exec(compile(snippet, name, "exec"), names)


OPERATIONS = ["softmax", "straight_through", "gumbel_softmax", "gumbel_max", "gumbel_noise", "relaxed_top_k"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_shown(operation: str) -> None:
    for name in ("README.md", "guide.md") if operation != "straight_through" else ("README.md",):
        assert any(f"gumbel_ext.{operation}(" in snippet for snippet in SNIPPETS[name])
    assert callable(getattr(gumbel_ext, operation))


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Relative links, of files: those of the documentation's own pages are checked when it is built, too."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[name].read_text()):
        assert "://" in target or (PAGES[name].parent / target).exists(), target

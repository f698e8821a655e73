"""The pages of the documentation say what was measured."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def choosing():
    spec = importlib.util.spec_from_file_location("choosing", ROOT / "benchmarks" / "choosing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_choice_of_a_method_rests_on_the_measured_tables(choosing):
    page = choosing.PAGE.read_text()
    assert choosing.fill(page) == page
    changed = page.replace("| `rebal` |", "| `rebal` | and more", 1)
    assert changed != page and choosing.fill(changed) == page


def test_a_table_of_nothing_is_refused(choosing):
    with pytest.raises(LookupError, match=r"0 lines of trials\.csv have run=nobody"):
        choosing.Row("`rl2`", "", "trials", "run=nobody").find()
    with pytest.raises(LookupError, match=r"lines of trials\.csv have algorithm=rl2"):
        choosing.Row("`rl2`", "", "trials", "algorithm=rl2").find()
    with pytest.raises(LookupError, match="marks for"):
        choosing.fill("<!-- table: nobody -->\n<!-- end -->")

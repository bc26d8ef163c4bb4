"""The page about large sets says what the script prints."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FIGURES = REPOSITORY / "docs" / "scale.json"


def table(path: Path, *options: str) -> str:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "scale.py"), "table", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_page_has_the_tables_of_the_script():
    page = (REPOSITORY / "docs" / "scale.md").read_text("utf-8")
    (shown,) = re.findall(r"<!-- begin: .* -->\n(.*)<!-- end -->", page, re.DOTALL)
    assert shown == table(FIGURES)


def test_what_follows_is_in_proportion_to_what_was_measured(tmp_path):
    figures = json.loads(FIGURES.read_text())
    figures |= {"answer_s": 0.0036, "near_pair_s": 7.2e-9, "size": 100, "names_bytes": 500}
    changed = tmp_path / "figures.json"
    changed.write_text(json.dumps(figures))
    printed = table(changed, "--cores", "10", "--core-hour", "0.5")
    # 0.0036 s x a million / 3600 = 1 hour of one core, 6 minutes of ten.
    assert "| label, float32 | 1 | 6 min | 0.5 $ |" in printed
    # A million has 5e11 pairs: 3,600 s. A billion has a million times as many.
    assert "| find near-duplicates: compare hashes | 1 | 6 min | 0.5 $ |" in printed
    assert "| find near-duplicates: compare hashes | 1 million | 11.4 years | 500,000 $ |" in printed
    assert "| decoded pixels on the disk | 30 kB | 30 GB | 30 TB |" in printed
    assert "| names fill 64 GB of memory | 128 million |" in printed


@pytest.mark.slow
@pytest.mark.parametrize("step", ["near 300", "head 400 16"])
def test_steps_are_measured(step):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "scale.py"), "step", *step.split()]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 < figures["seconds"] < 60

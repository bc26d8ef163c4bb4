"""Checks what `zoo compare` chooses by fine-tuning all networks that it has compared.

Usage:

    python benchmarks/compare_choice.py DATA [FOLDER]

`zoo compare` runs first, then `zoo finetune` on each network, with the same seed. The accuracies of fine-tuning are
those of the test pictures, which `zoo compare` does not use. It prints both, Spearman's rank correlation between them,
and what the chosen network loses to the best one after fine-tuning.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scipy.stats import spearmanr


def run(*arguments: str) -> str:
    """Run `zoo` in a new process, and return what it prints on stdout."""
    command = [sys.executable, "-m", "zoo", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    data = str(Path(sys.argv[1]).absolute())
    place = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="zoo-compare-")).absolute()
    began = time.perf_counter()
    compared = json.loads(run("compare", "--data", data, "--output", str(place / "compare"), "--json"))
    print(f"zoo compare took {time.perf_counter() - began:.0f} s; it takes {compared['take']}", flush=True)
    print(f"{'network':<24} {'compared':>9} {'fine-tuned':>11} {'ms':>7} {'seconds':>8}")
    rows = [row for row in compared["networks"] if not row["problem"]]
    tuned = {}
    for row in rows:
        name, runs = row["name"], place / "runs" / row["name"]
        height, width = row["size"]
        began = time.perf_counter()
        run(
            *("finetune", name, "--data", data, "--size", f"{height}x{width}", "--allow-chance", "--replace"),
            *("--runs", str(runs), "--exported", str(place / "exported")),
        )
        seconds = time.perf_counter() - began
        (metrics,) = sorted(runs.glob("*/metrics.json"))[-1:]
        tuned[name] = json.loads(metrics.read_text())["test"]["accuracy"]
        print(
            f"{name:<24} {row['accuracy']:9.4f} {tuned[name]:11.4f} {row['milliseconds']:7.2f} {seconds:8.0f}",
            flush=True,
        )
    correlation = spearmanr([row["accuracy"] for row in rows], [tuned[row["name"]] for row in rows]).statistic
    best = max(tuned, key=lambda name: tuned[name])
    lost = tuned[best] - tuned[compared["take"]]
    print(f"rank correlation {correlation:.2f}; {compared['take']} is {lost:.4f} behind {best}")


if __name__ == "__main__":
    main()

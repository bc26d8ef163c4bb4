"""Gives damaged and forged pictures to a `Predictor`, and writes the table of what came of it into docs/reliability.md.

    python benchmarks/hostile_pictures.py                           # 10,000 damaged files and the bombs, a minute
    python benchmarks/hostile_pictures.py --odd FOLDER              # also every file below a folder
    python benchmarks/hostile_pictures.py --files 1000000 --seed 1  # more, other ones; --no-table leaves the page alone

Child processes predict, so that a crash ends one of them and not the count; then another one goes on behind the file
that was fatal. The script ends with exit code 1 if there was a crash, an error of another kind, a file that took more
than 2 s of processor time or 500 MB, or made-up pixels. Linux only, because it measures memory through /proc.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "reliability.md"
MODEL = REPOSITORY / "exported" / "mobilenetv2_035-digits" / "model.onnx"
START, END = "<!-- the table of hostile pictures begins -->", "<!-- the table of hostile pictures ends -->"
MOST_SECONDS, MOST_BYTES, PATIENCE = 2.0, 500_000_000, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--odd", help="a folder whose files are tried too")
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(**options.child)
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    for job in jobs(options):
        for result in run(job):
            rows.setdefault(result["group"], []).append(result)
    table, wrong = summary(rows)
    print(table)
    for result in wrong:
        print(f"wrong: {result}", file=sys.stderr)
    if not options.no_table and not wrong:
        words = [f"--files {options.files} --seed {options.seed}", *(["--odd FOLDER"] if options.odd else [])]
        note = f"`python benchmarks/hostile_pictures.py {' '.join(words)}` on {machine()}, {datetime.date.today()}:"
        page = PAGE.read_text("utf-8")
        before, rest = page.split(START)
        PAGE.write_text(f"{before}{START}\n\n{note}\n\n{table}\n\n{END}{rest.split(END)[1]}", "utf-8")
    sys.exit(bool(wrong))


def machine() -> str:
    """Describe this machine in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    import PIL

    return f"{os.cpu_count()} cores of an {name or platform.machine()}, Pillow {PIL.__version__}"


def jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what children do: each a kind of files, and how many there are."""
    from bombs import BOMBS

    found = [{"kind": "mutation", "count": options.files, "seed": options.seed}]
    found.append({"kind": "bomb", "count": len(BOMBS), "seed": 0})
    if options.odd:
        paths = sorted(str(path) for path in Path(options.odd).rglob("*") if path.is_file())
        found.append({"kind": "odd", "count": len(paths), "seed": 0, "paths": paths})
    return found


def run(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Let children do a job. Yield a result for each file, also for those that end or stop a child."""
    begin = 0
    while begin < job["count"]:
        words = json.dumps({**job, "begin": begin})
        command = [sys.executable, "-W", "ignore", __file__, "--child", words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        waiting = selectors.DefaultSelector()
        waiting.register(process.stdout, selectors.EVENT_READ)
        group, stopped, buffer = "?", False, b""
        while True:
            if not waiting.select(PATIENCE):
                process.kill()
                stopped = True
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                result = json.loads(line)
                if "begun" in result:
                    begin, group = result["begun"], result["group"]
                else:
                    begin += 1
                    yield result
        code = process.wait()
        if begin < job["count"]:
            what = "hang" if stopped else f"crash {code}"
            yield {"group": group, "what": what, "number": begin, "seconds": float(PATIENCE * stopped), "bytes": 0}
            begin += 1


def child(kind: str, count: int, seed: int, begin: int, paths: list[str] | None = None) -> None:
    """Predict the files of a job from a number on, and print a line before and behind each."""
    import mutations
    import numpy as np

    from zoo_runtime import PictureError, Prediction, Predictor

    predictor = Predictor(MODEL, threads=1, formats=["all"])
    files = mutations.seeds()
    whole = {data: predictor.decode(data) for _, _, data in files}
    predictor(files[0][2])
    for number in range(begin, count):
        group, data, first, must_be_whole = _file(kind, number, seed, files, paths)
        print(json.dumps({"begun": number, "group": group}), flush=True)
        forget_peak()
        before, started = peak(), time.process_time()
        try:
            pixels = predictor.decode(data)
            answer = predictor(data)
            what = "prediction" if isinstance(answer, Prediction) else "wrong answer"
            if must_be_whole and not np.array_equal(pixels, whole[first]):
                what = "made-up pixels"
        except PictureError as error:
            what = type(error).__name__
        except BaseException as error:
            what = f"escaped {error!r:.200}"
        seconds = time.process_time() - started
        taken = peak() - before
        print(
            json.dumps({"group": group, "what": what, "number": number, "seconds": seconds, "bytes": taken}), flush=True
        )


def _file(
    kind: str, number: int, seed: int, files: list[tuple[str, str, bytes]], paths: list[str] | None
) -> tuple[str, bytes, bytes, bool]:
    """Return the group, the bytes, the undamaged bytes, and whether all pixels must be those of the undamaged file."""
    if kind == "mutation":
        import mutations

        group, first, changed = mutations.mutation(number, seed, files)
        return group, changed.data, first, changed.must_be_whole
    if kind == "odd":
        return "odd files", Path((paths or [])[number]).read_bytes(), b"", False
    from bombs import BOMBS

    return "bombs", list(BOMBS.values())[number](), b"", False


def forget_peak() -> None:
    """Let the system measure the most memory of this process from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most memory of this process in bytes since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def summary(rows: dict[str, list[dict[str, Any]]]) -> tuple[str, list[dict[str, Any]]]:
    """Return the table, and the results that should not have been."""
    allowed = {"prediction", "CorruptPicture", "NotAPicture", "PictureTooLarge", "UnsupportedPicture"}
    wrong = [
        result
        for results in rows.values()
        for result in results
        if result["what"] not in allowed or result["seconds"] > MOST_SECONDS or result["bytes"] > MOST_BYTES
    ]
    lines = ["| files | tried | predictions | errors by kind | crashes, hangs, made-up | longest, CPU ms | most, MB |"]
    lines.append("|---|--:|--:|---|--:|--:|--:|")
    for group, results in rows.items():
        counts = Counter(result["what"] for result in results)
        errors = ", ".join(f"{counts[name]:,} {name}" for name in sorted(allowed - {"prediction"}) if counts[name])
        bad = sum(count for what, count in counts.items() if what not in allowed)
        longest = 1000 * max(result["seconds"] for result in results)
        memory = max(result["bytes"] for result in results) / 1e6
        lines.append(
            f"| {group} | {len(results):,} | {counts['prediction']:,} | {errors} | {bad} "
            f"| {longest:.0f} | {memory:.0f} |"
        )
    return "\n".join(lines), wrong


if __name__ == "__main__":
    main()

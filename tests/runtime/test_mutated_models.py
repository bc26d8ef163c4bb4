"""Change bytes of an exported file 2,000 times, with a fixed seed, and open each: a prediction or a typed error.

The files are opened in child processes, because a crash of ONNX Runtime would end the tests. Each child writes the
number of a file before it opens it, so that the file of a crash is known.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
FILES, SEED, PER_PROCESS = 2000, 22, 250

CHILD = """
import json, random, re, sys, time
from pathlib import Path
import numpy as np
from zoo_runtime import Predictor, UnsafeModel, ZooRuntimeError

source, first, last, seed = sys.argv[1], *map(int, sys.argv[2:5])
whole = open(source, "rb").read()
# Half of the changes are in the structure, which is less than a tenth of the file.
structure = [place for place in range(len(whole)) if place < 12_000 or place > len(whole) - 60_000]
pixels = np.full((40, 40, 3), 128, np.uint8)
for number in range(first, last):
    random_ = random.Random(f"{seed} {number}")
    data = bytearray(whole)
    for _ in range(random_.choice([1, 1, 2, 8])):
        place = random_.choice(structure) if random_.random() < 0.5 else random_.randrange(len(data))
        kind = random_.randrange(5)
        if kind == 0:
            data[place] = random_.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << random_.randrange(8)
        elif kind == 2:
            del data[place : place + random_.choice([1, 2, 100])]
        elif kind == 3:
            data[place:place] = random_.randbytes(random_.choice([1, 2, 100]))
        else:
            data[place:place] = data[place : place + random_.choice([4, 50, 2000])]
        place = min(place, len(data) - 1)
        structure = [each for each in structure if each < len(data)]
    print(json.dumps({"number": number}), flush=True)
    started = time.perf_counter()
    try:
        outcome = "prediction" if Predictor(bytes(data), tuned=False, threads=1)(pixels) else ""
    except ZooRuntimeError as error:
        outcome = type(error).__name__
    except Exception as error:
        outcome = f"untyped {type(error).__name__}: {error}"
    taken = time.perf_counter() - started
    # What `getrusage` returns begins with the peak of the parent.
    memory = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
    print(json.dumps({"number": number, "outcome": outcome, "seconds": taken, "memory": memory}), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_mutated_files_give_a_prediction_or_a_typed_error(capsys):
    source = Path(__file__).parents[2] / "exported" / "mobilenetv2_035-digits" / "model.onnx"
    outcomes: collections.Counter[str] = collections.Counter()
    longest = memory = 0.0
    crashed, number = [], 0
    while number < FILES:
        last = min(FILES, number + PER_PROCESS - number % PER_PROCESS)
        command = [sys.executable, "-c", CHILD, str(source), str(number), str(last), str(SEED)]
        ran = subprocess.run(command, capture_output=True, text=True)
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        for line in lines:
            if "outcome" in line:
                outcomes[line["outcome"]] += 1
                longest, memory = max(longest, line["seconds"]), max(memory, line["memory"])
        number = last
        if ran.returncode:
            number = lines[-1]["number"] + 1
            crashed.append((lines[-1]["number"], ran.returncode, ran.stderr[-300:]))
    with capsys.disabled():
        print(f"\n{FILES} files: {dict(outcomes)}, crashes {crashed}, longest {longest:.2f} s, memory {memory:.0f} MB")
    untyped = {outcome: count for outcome, count in outcomes.items() if outcome.startswith("untyped")}
    assert untyped == {} and crashed == []
    assert outcomes["prediction"] > 100 and outcomes["CorruptModel"] > 100
    assert longest < 10 and memory < 1000

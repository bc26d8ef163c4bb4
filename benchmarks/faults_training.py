"""Faults while a network trains and is exported. `faults.py` runs them.

Most of them end a run. The run is then resumed, and its weights are compared with those of a run that was left alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from faults import Place, Ran, fault, finish, read_until

from zoo.export.weights_digest import weights_sha256

GROUP = "Training"
# Calls an action before the n-th call of a function. Paths count from the folder of the fault.
AT = """
import functools, importlib, os, pathlib, shutil, signal, subprocess, time
def at(target, nth, action):
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), []
    @functools.wraps(function)
    def counted(*args, **options):
        calls.append(1)
        if len(calls) == nth:
            action()
        return function(*args, **options)
    setattr(owner, name, counted)
def fill():
    with open("disk/fill", "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(512))
        except OSError:
            pass
def protect():
    # A disk with open files cannot be remounted. A read-only view of it can lie on top.
    subprocess.run(["mount", "--bind", "disk", "disk"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "disk"], check=True)
def send(number):
    return lambda: os.kill(os.getpid(), number)
# Jobs in the background of a shell ignore Ctrl-C, and those of nohup ignore the end of the terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
at({target!r}, {nth}, {action})
"""
STEP = "zoo.train.fitting:EpochLog.end_step"
SAVE = "zoo.train.safe_points:SafePoints.write"
FEATURES = "zoo.train.frozen.backbone:FeatureSession.__call__"
EXPORT = "zoo.workflow.finished_graph:finish_graph"
REPORT = "zoo.workflow.page:write"
KILLED = "nothing from zoo, and `Killed` from the shell; the run has ended. `zoo resume RUN` continues it"
_alone = threading.Lock()


def at(target: str, nth: int, action: str) -> str:
    """Return code that lets something happen before the n-th call of a function."""
    return AT.format(target=target, nth=nth, action=action)


def training(place: Place, *options: object) -> list[str]:
    """Return the arguments of a training of four epochs."""
    usual = ("--weights", "none", "--size", 28, "--epochs", 4, "--batch-size", 4, "--dropout", 0.2, "--name", "photos")
    return place.training("mnist_convnet", *usual, *options)


def run_of(place: Place) -> Path:
    """Return the only run folder of a fault."""
    (run,) = (path.parent for path in place.folder.glob("*/*/run.json") if path.parent.parent.name != "exported")
    return run


@functools.cache
def _digest_alone(options: tuple[object, ...]) -> str:
    folder = Path(tempfile.mkdtemp(prefix="zoo-alone-"))
    try:
        place = Place(folder)
        ran = place.run(*training(place, *options))
        assert ran.code == 0, ran.text
        return weights_sha256(folder / "exported" / "photos" / "model.onnx")
    finally:
        shutil.rmtree(folder)


def check_weights(path: Path, *options: object) -> None:
    """Check that an exported file has the weights of a run that was left alone."""
    with _alone:
        expected = _digest_alone(options)
    assert weights_sha256(path) == expected, f"{path} has other weights"


def resumed(place: Place, *options: object, exported: str = "exported") -> Ran:
    """Resume the run of a fault, and check its weights."""
    ran = place.run("resume", run_of(place))
    assert ran.code == 0 and not (run_of(place) / "unfinished").exists(), ran.text
    check_weights(place.folder / exported / "photos" / "model.onnx", *options)
    return ran


def ends(ran: Ran, code: int, *parts: str) -> Ran:
    """Check the exit code and the output of a command."""
    assert ran.code == code and all(part in ran.text for part in parts), (ran.code, ran.text)
    return ran


def full_run_folder(place: Place, target: str, nth: int) -> Ran:
    """Let the disk of the run folder be full from a moment on, and resume the run when there is space again."""
    with place.small_disk(4) as disk:
        ran = place.run(*training(place), "--runs", disk, before=at(target, nth, "fill"))
        ends(ran, 1, "No space left on device", "Free some space", f"zoo resume {run_of(place)}")
        (disk / "fill").unlink()
        resumed(place)
    return ran


@fault(GROUP, "the disk is full when a safe point is written")
def full_safe_point(place: Place) -> Ran:
    return full_run_folder(place, SAVE, 2)


@fault(GROUP, "the disk is full when history.csv is written")
def full_history(place: Place) -> Ran:
    return full_run_folder(place, "zoo_plugins.history:History.epoch", 2)


@fault(GROUP, "the disk is full when the network is exported")
def full_export(place: Place) -> Ran:
    return full_run_folder(place, EXPORT, 1)


@fault(GROUP, "the disk is full when report.html is written")
def full_report(place: Place) -> Ran:
    with place.small_disk(4) as disk:
        ran = place.run(*training(place), "--runs", disk, before=at(REPORT, 1, "fill"))
        ends(ran, 0, "zoo report")
        check_weights(place.folder / "exported" / "photos" / "model.onnx")
        (disk / "fill").unlink()
        ends(place.run("report", run_of(place)), 0)
        assert (run_of(place) / "report.html").is_file()
    return ran


@fault(GROUP, "the disk of the exported files is full")
def full_exported(place: Place) -> Ran:
    with place.small_disk(4) as disk:
        ran = place.run(*training(place), "--exported", disk, before=at(EXPORT, 1, "fill"))
        ends(ran, 1, "No space left on device", f"zoo export {run_of(place)} --allow-chance --exported FOLDER")
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["fill"]
        (disk / "fill").unlink()
        resumed(place, exported="disk")
    return ran


@fault(GROUP, "the disk of the cache is full when features are written: they are computed in every epoch")
def full_features(place: Place) -> Ran:
    options = ("--schedule", "head-only", "--cache-size", "50MB")
    with place.small_disk(4) as disk:
        place.environment["ZOO_CACHE"] = str(disk)
        ran = ends(place.run(*training(place, *options), before=at(FEATURES, 1, "fill")), 0)
    check_weights(place.folder / "exported" / "photos" / "model.onnx", *options)
    return ran


@fault(GROUP, "the folder of temporary files is full")
def full_temporary(place: Place) -> Ran:
    with place.small_disk(1) as disk:
        place.environment["TMPDIR"] = str(disk)
        ran = place.run(*training(place, "--int8"), before=at(EXPORT, 1, "fill"))
        ends(ran, 1, "No space left on device", "TMPDIR", f"zoo resume {run_of(place)}")
        (disk / "fill").unlink()
        resumed(place)
    return ran


@fault(GROUP, "the run folder becomes read-only while a network trains")
def read_only_run(place: Place) -> Ran:
    with place.small_disk(4) as disk:
        ran = place.run(*training(place), "--runs", disk, before=at(SAVE, 2, "protect"))
        ends(ran, 1, "Read-only file system", f"zoo resume {run_of(place)}")
        ends(place.run("resume", run_of(place)), 1, "is on a read-only file system", "cp -r")
        subprocess.run(["umount", disk], check=True)
        resumed(place)
    return ran


@fault(GROUP, "the folder of runs is on a read-only disk")
def read_only_before(place: Place) -> Ran:
    with place.small_disk(1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        ran = ends(place.run(*training(place), "--runs", disk), 1, "read-only file system", "--runs FOLDER")
    return ran


@fault(GROUP, "the folder of exported files becomes read-only while a network trains")
def read_only_exported(place: Place) -> Ran:
    with place.small_disk(4) as disk:
        ran = place.run(*training(place), "--exported", disk, before=at(SAVE, 2, "protect"))
        subprocess.run(["umount", disk], check=True)
        ends(ran, 1, "Read-only file system", f"zoo export {run_of(place)} --allow-chance --exported FOLDER")
        elsewhere = ("--exported", place.folder / "elsewhere", "--allow-chance")
        ends(place.run("export", run_of(place), *elsewhere), 0)
        check_weights(place.folder / "elsewhere" / "photos" / "model.onnx")
    return ran


@fault(GROUP, "a picture is deleted while a network trains")
def deleted_picture(place: Place) -> Ran:
    victim = "photos/dark/3.png"
    ran = place.run(*training(place), before=at(STEP, 3, f"pathlib.Path({victim!r}).unlink"))
    return ran


@fault(GROUP, "all pictures are deleted while a network trains")
def deleted_pictures(place: Place) -> Ran:
    ran = place.run(*training(place), before=at(STEP, 3, "lambda: shutil.move('photos', 'moved')"))
    return ran


@fault(GROUP, "a picture is cut off while a network trains")
def truncated_picture(place: Place) -> Ran:
    cut = "lambda: [path.write_bytes(path.read_bytes()[:900]) for path in pathlib.Path('photos/dark').iterdir()]"
    ran = place.run(*training(place), before=at(STEP, 3, cut))
    return ran


# A user without rights who may still read everything, because Python may lie in the home of the user who runs this.
ANOTHER = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
ANOTHER += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"]


def as_another(place: Place) -> Sequence[str]:
    """Return the command that runs `zoo` as a user who owns nothing but the cache. This needs Linux and root."""
    place.cache.mkdir(exist_ok=True)
    place.folder.chmod(0o755)
    for path in (place.cache, *place.cache.rglob("*")):
        os.chown(path, 65534, 65534)
    return ANOTHER


def own_folder(folder: Path) -> Path:
    """Make a folder to which every user may write."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


@fault(GROUP, "the folder of runs belongs to another user")
def runs_of_another(place: Place) -> Ran:
    (place.folder / "runs").mkdir()
    own_folder(place.folder / "exported")
    ran = ends(place.run(*training(place), through=as_another(place)), 1, "no permission", "--runs FOLDER")
    assert not list(place.folder.glob("runs/*"))
    return ran


@fault(GROUP, "an interrupted run of another user is resumed")
def resumed_by_another(place: Place) -> Ran:
    interrupted(place)
    own_folder(place.folder / "exported")
    ran = ends(place.run("resume", run_of(place), through=as_another(place)), 1, "cp -r")
    resumed(place)
    return ran


@fault(GROUP, "a run of another user is exported")
def exported_by_another(place: Place) -> Ran:
    ends(place.run(*training(place)), 0)
    elsewhere = own_folder(place.folder / "elsewhere")
    ran = ends(place.run("export", run_of(place), "--exported", elsewhere, through=as_another(place)), 1, "cp -r")
    copy = elsewhere / "copy"
    subprocess.run([*ANOTHER, "cp", "-r", run_of(place), copy], check=True)
    options = ("--allow-chance", "--exported", elsewhere)
    ends(place.run("export", copy, *options, through=as_another(place)), 0)
    check_weights(elsewhere / "photos" / "model.onnx")
    return ran


def interrupted(place: Place, *options: object) -> Ran:
    """Start a training, and press Ctrl-C in its third epoch."""
    steps = at("zoo.train.fitting:EpochLog.end_step", 12, "send(signal.SIGINT)")
    return ends(place.run(*training(place, *options), before=steps), 130, f"zoo resume {run_of(place)}")


@fault(GROUP, "a picture is deleted before an interrupted run is resumed")
def deleted_before_resume(place: Place) -> Ran:
    interrupted(place)
    kept = (place.photos / "dark" / "3.png").rename(place.folder / "kept.png")
    ran = ends(place.run("resume", run_of(place)), 1, "3.png")
    kept.rename(place.photos / "dark" / "3.png")
    resumed(place)
    return ran


def changed_before_resume(place: Place, change: Callable[[bytes], bytes]) -> Ran:
    """Change the content of a picture between an interruption and `zoo resume`, and resume again when it is back."""
    interrupted(place)
    path = place.photos / "dark" / "3.png"
    content = path.read_bytes()
    path.write_bytes(change(content))
    ran = ends(place.run("resume", run_of(place)), 1, "3.png")
    path.write_bytes(content)
    resumed(place)
    return ran


@fault(GROUP, "a picture is replaced before an interrupted run is resumed")
def replaced_before_resume(place: Place) -> Ran:
    return changed_before_resume(place, lambda content: (place.photos / "dark" / "4.png").read_bytes())


@fault(GROUP, "a picture is cut off before an interrupted run is resumed")
def truncated_before_resume(place: Place) -> Ran:
    return changed_before_resume(place, lambda content: content[:900])


@fault(GROUP, "the cache is deleted while features are computed")
def cache_deleted_in_features(place: Place) -> Ran:
    options = ("--schedule", "head-only", "--cache-size", "50MB")
    ran = place.run(*training(place, *options), before=at(FEATURES, 2, "lambda: shutil.rmtree('cache')"))
    check_weights(place.folder / "exported" / "photos" / "model.onnx", *options)
    return ends(ran, 0)


@fault(GROUP, "the cache is deleted while pictures are decoded")
def cache_deleted_in_decoding(place: Place) -> Ran:
    ran = place.run(*training(place), before=at("zoo.data.pixels:_decode", 9, "lambda: shutil.rmtree('cache')"))
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    return ends(ran, 0)


@fault(GROUP, "the cache is deleted while the network is exported")
def cache_deleted_in_export(place: Place) -> Ran:
    ran = place.run(*training(place), before=at(EXPORT, 1, "lambda: shutil.rmtree('cache')"))
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    return ends(ran, 0)


@fault(GROUP, "the cache is deleted before an interrupted run is resumed")
def cache_deleted_before_resume(place: Place) -> Ran:
    options = ("--schedule", "head-only", "--cache-size", "50MB")
    interrupted(place, *options)
    shutil.rmtree(place.cache)
    return resumed(place, *options)


@fault(GROUP, "the run folder is deleted while a network trains")
def run_deleted(place: Place) -> Ran:
    ran = place.run(*training(place), before=at(STEP, 12, "lambda: shutil.rmtree('runs')"))
    return ran


@fault(GROUP, "the folder of exported files is deleted while a network trains")
def exported_deleted(place: Place) -> Ran:
    (place.folder / "exported").mkdir()
    ran = ends(place.run(*training(place), before=at(STEP, 3, "lambda: shutil.rmtree('exported')")), 0)
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    return ran


@fault(GROUP, "Ctrl-C")
def ctrl_c(place: Place) -> Ran:
    ran = interrupted(place)
    resumed(place)
    return ran


@fault(GROUP, "Ctrl-C while the folds of `--cv 3` are trained")
def ctrl_c_in_folds(place: Place) -> Ran:
    options = ("--cv", 3)
    # A fold has four epochs of four batches. The interruption comes in the second fold.
    ran = place.run(*training(place, *options), before=at(STEP, 22, "send(signal.SIGINT)"))
    ends(ran, 130, f"zoo resume {run_of(place)}")
    resumed(place, *options)
    return ran


def signaled(place: Place, number: int, code: int) -> Ran:
    """Send a signal in the third epoch, and resume."""
    ran = place.run(*training(place), before=at(STEP, 12, f"send({number})"))
    ends(ran, code, f"zoo resume {run_of(place)}")
    resumed(place)
    return ran


@fault(GROUP, "`kill` (SIGTERM)")
def sigterm(place: Place) -> Ran:
    return signaled(place, signal.SIGTERM, 143)


@fault(GROUP, "the terminal is closed, or the ssh connection ends (SIGHUP)")
def sighup(place: Place) -> Ran:
    return signaled(place, signal.SIGHUP, 129)


@fault(
    GROUP,
    "`kill` (SIGTERM) while pictures are decoded",
    silent="nothing; the command has ended before there is a run folder. Start the same command again",
)
def sigterm_decoding(place: Place) -> Ran:
    ran = place.run(*training(place), before=at("zoo.data.pixels:_decode", 5, "send(signal.SIGTERM)"))
    assert not list(place.folder.glob("runs/*"))
    return ends(ran, 143)


@fault(GROUP, "`kill` (SIGTERM) while the network is exported")
def sigterm_export(place: Place) -> Ran:
    ran = ends(place.run(*training(place), before=at(EXPORT, 1, "send(signal.SIGTERM)")), 143, "zoo resume")
    resumed(place)
    return ran


@fault(
    GROUP,
    "the system kills the process because the memory is full, or `kill -9` (SIGKILL)",
    silent=KILLED,
)
def out_of_memory(place: Place) -> Ran:
    ran = place.run(*training(place), before=at(STEP, 12, "send(signal.SIGKILL)"))
    assert ran.code == -signal.SIGKILL, ran.text
    resumed(place)
    # A shell reports a signal as 128 plus its number.
    return Ran(128 + signal.SIGKILL, ran.text)


@contextlib.contextmanager
def container(megabytes: int) -> Iterator[Sequence[str]]:
    """Provide a command that runs another one with little memory, as a container does. This needs Linux and root."""
    old = Path("/sys/fs/cgroup/memory")
    groups = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines())
    path = next(path for _, kinds, path in groups if kinds == ("memory" if old.is_dir() else ""))
    group = (old if old.is_dir() else old.parent) / path.lstrip("/") / "zoo-fault"
    group.mkdir()
    try:
        limit = group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")
        limit.write_text(str(megabytes << 20))
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


@fault(
    GROUP,
    "a container has too little memory",
    silent=KILLED,
)
def out_of_memory_in_container(place: Place) -> Ran:
    with container(2000) as limited:
        ran = place.run(*training(place), before=at(STEP, 12, "lambda: b'x' * (3 << 30)"), through=limited)
    assert ran.code == -signal.SIGKILL, ran
    resumed(place)
    return Ran(128 + signal.SIGKILL, ran.text)


@fault(GROUP, "the memory is full")
def memory_error(place: Place) -> Ran:
    action = "lambda: bytearray(1 << 50)"
    ran = place.run(*training(place), before=at(STEP, 12, action))
    ends(ran, 1, "memory", f"zoo resume {run_of(place)}")
    resumed(place)
    return ran


@fault(GROUP, "the same command twice at once (the second is shown)")
def twice(place: Place) -> Ran:
    first, second = (place.start(*training(place)) for _ in range(2))
    results = finish(first), finish(second)
    assert [ran.code for ran in results] == [0, 0], results
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    assert len(list(place.folder.glob("runs/*/model.onnx"))) == 2
    return results[1]


@fault(GROUP, "a run is resumed twice at once (the second is shown)")
def resumed_twice(place: Place) -> Ran:
    interrupted(place)
    wait = at(STEP, 2, "lambda: [time.sleep(0.05) for _ in iter(lambda: os.path.exists('go'), True)]")
    first = place.start("resume", run_of(place), before=wait)
    begun = read_until(first, "Resuming run")
    second = ends(place.run("resume", run_of(place)), 1, "is in use")
    (place.folder / "go").touch()
    ran = finish(first)
    assert ran.code == 0, begun + ran.text
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    return second


@fault(GROUP, "`zoo export RUN` while the run trains")
def exported_while_training(place: Place) -> Ran:
    wait = at(STEP, 12, "lambda: [time.sleep(0.05) for _ in iter(lambda: os.path.exists('go'), True)]")
    first = place.start(*training(place), before=wait)
    begun = read_until(first, "epoch   1")
    ran = ends(place.run("export", run_of(place)), 1)
    (place.folder / "go").touch()
    done = finish(first)
    assert done.code == 0, begun + done.text
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    return ran


@fault(GROUP, "two commands write the same export at once (the second is shown)")
def same_export(place: Place) -> Ran:
    ends(place.run(*training(place)), 0)
    command = ("export", run_of(place), "--exported", place.folder / "exported", "--allow-chance")
    processes = [place.start(*command) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [ran.code for ran in results] == [0, 0], results
    check_weights(place.folder / "exported" / "photos" / "model.onnx")
    return results[1]

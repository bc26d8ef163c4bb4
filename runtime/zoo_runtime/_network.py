"""Runs the network of an exported file in its engine, on one session or two, also after a fork or in another process.

`Predictor` decodes pictures and names classes; this module holds the sessions. A session cannot be pickled, and its
threads do not exist in a forked process. So a network remembers its file, and opens it again where that is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._engine import ONNXRUNTIME, OPENVINO, engine_of, size_of
from ._errors import CorruptModel, ModelError, ModelNotFound, NotAnExport
from ._format import INPUT, OUTPUT, ModelInfo
from ._onnxruntime import Session
from ._session import Settings, name_of, open_session
from ._trust import FEATURE_NORM, OUTLIER_SCORE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# The size of the largest file that is opened a second time for lists, in bytes.
LARGEST_TWICE = 100_000_000

# The sessions of unpickled networks, so that a worker process opens a file once and not once per task.
_REOPENED: dict[tuple[object, ...], Session] = {}
_RUNNING: weakref.WeakSet[Network] = weakref.WeakSet()
_LEFT_BEHIND: list[Session] = []
_hooked = False
_ends_at_once = False


class Network:
    """Holds the sessions that run one exported file.

    It can be copied: the copy is the same object. It can be pickled: where it is unpickled, it opens its file again at
    the same path when it first runs, and refuses a file that has changed. If it was made from bytes, they are pickled.
    After a fork, the new process opens the file again, because the threads of the session exist only in the old one.

    Args:
        model: Path of the file, or its bytes.
        settings: The settings for one picture at a time.
        for_many: The settings for lists, without tuned ones. Their number of threads is not used.

    Raises:
        ModelError: If the file cannot be used. See `Predictor`.
    """

    def __init__(self, model: str | bytes, settings: Settings, for_many: Settings) -> None:
        self._model = model if isinstance(model, bytes) else os.path.abspath(model)
        self._settings = settings
        self._for_many = for_many
        self.engine = engine_of(model)
        self._bytes = len(model) if isinstance(model, bytes) else size_of(model)
        self._digest: str | None = None
        # The path as the user gave it is better in messages.
        self._name = name_of(model)
        self._start(open_session(model, settings))

    def _start(self, opened: Session | None) -> None:
        self._opened = opened
        self._inherited: Session | None = None
        self._single: Session | None = None
        self._make_locks()
        _watch_forks(self)

    def _make_locks(self) -> None:
        self._lock = threading.RLock()
        # Some providers, such as DirectML, do not allow two threads to use one session at the same time.
        self._run_lock: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if self._settings.providers == ("cpu",) else threading.Lock()
        )

    @property
    def session(self) -> Session:
        """The session for one picture at a time. It is opened again after unpickling, and after a fork."""
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._opened = self._open_again()
        return self._opened

    def session_for_lists(self, workers: int) -> Session:
        """Return the session that several threads share if each of them runs the network on its own pictures.

        Normally, this is a second session, on which each of the workers has a single thread. The first call of this
        method opens it. In these cases, the session for one picture is returned instead:

        - Only one thread is used.
        - A provider other than the processor is used.
        - The file is larger than 100 MB. A second session would then take much memory and would hardly be faster,
          because the open session splits the work on a single picture over all threads.
        - The file cannot be opened again, or has been replaced by a file with other metadata.

        Args:
            workers: The number of threads that will run the session.
        """
        if (
            (workers == 1 and self._settings.threads in (None, 1))
            or self._settings.providers != ("cpu",)
            or self._bytes > LARGEST_TWICE
        ):
            return self.session
        first = self.session
        with self._lock:
            if self._single is None:
                self._single = first
                # The file may have been replaced since it was opened. The new one must not answer for the old one.
                with contextlib.suppress(ModelError):
                    alone = dataclasses.replace(self._for_many, threads=1)
                    # ONNX Runtime computes on the threads that call it. The others have to know how many do.
                    more = () if self.engine is ONNXRUNTIME else (workers,)
                    session = _kept(open_session(self._model, alone, *more))
                    if metadata_of(session) == metadata_of(first):
                        self._single = session
            return self._single

    def run(self, session: Session, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network on decoded pictures (batch, height, width, channels), and return (batch, classes).

        Raises:
            CorruptModel: If the engine cannot run it.
        """
        return self._outputs(session, [OUTPUT], pixels)[0]

    def run_all(self, session: Session, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Run the network, and return all its outputs: the probabilities and, if the file has them, the scores.

        Returns:
            The probabilities (batch, classes). If the file has an outlier score, then also the scores (batch,) and the
            lengths of the features (batch,).

        Raises:
            CorruptModel: If the engine cannot run it.
        """
        return self._outputs(session, None, pixels)

    def _outputs(
        self, session: Session, names: list[str] | None, pixels: npt.NDArray[np.uint8]
    ) -> list[npt.NDArray[np.float32]]:
        with self._run_lock:
            try:
                return session.run(names, {INPUT: pixels})
            except Exception as error:
                # The exceptions of engines have no common base class.
                from ._foreign import explain_run

                raise explain_run(self._name, str(error), self.engine.title) from None

    def info(self) -> ModelInfo:
        """Return the metadata of the file, after checking that they match the graph.

        Raises:
            CorruptModel: If the metadata are damaged, or do not match the graph.
            NotAnExport: If there are no metadata of zoo.
            UnknownSchema: If this version of zoo_runtime does not know the version of the metadata.
            UnknownTask: If this version of zoo_runtime does not know the task.
        """
        metadata = metadata_of(self.session)
        try:
            info = ModelInfo.from_metadata(metadata)
        except NotAnExport:
            # The other engines look at the metadata when they open a file.
            from ._foreign import foreign_onnx

            producer = getattr(self.session.get_modelmeta(), "producer_name", "")
            nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
            ours = [node.name for node in nodes][:2] == [INPUT, OUTPUT]
            raise foreign_onnx(self._name, producer, like_ours=ours) from None
        _check_graph(self.session, info)
        return info

    # Copies, pickles and forks

    def __copy__(self) -> Network:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "settings": self._settings,
            "for_many": self._for_many,
            "bytes": self._bytes,
            "digest": self._digest or _digest(metadata_of(self.session)),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._model = state["model"]
        self._settings = state["settings"]
        self._for_many = state["for_many"]
        self._bytes = state["bytes"]
        self._digest = state["digest"]
        self._name = name_of(self._model)
        self.engine = engine_of(self._model)
        # The file is opened on first use: an error while unpickling would end a worker process without a message.
        self._start(None)

    def _open_again(self) -> Session:
        """Open the file again, after unpickling or in a forked process.

        Raises:
            ModelNotFound: If the file has gone, or is no longer the same.
            ModelError: If it cannot be opened for another reason.
        """
        key = (self._model, self._bytes, self._digest, repr(self._settings))
        if self._inherited is None and key in _REOPENED:
            return _REOPENED[key]
        try:
            session = self._open_same()
        except ModelError:
            # The session of the old process still computes the same, on one thread. Those of other engines would wait
            # for threads that are not there.
            if self._inherited is not None and self.engine is ONNXRUNTIME:
                return self._inherited
            raise
        if self._inherited is None:
            _REOPENED.clear()
            _REOPENED[key] = session
        return session

    def _open_same(self) -> Session:
        try:
            session = _kept(open_session(self._model, self._settings))
        except ModelNotFound as error:
            raise ModelNotFound(
                f"{error} A predictor that was pickled opens its file again at the path where it was."
            ) from None
        before = self._digest
        if before is None and self._inherited is not None:
            before = _digest(metadata_of(self._inherited))
        size = len(self._model) if isinstance(self._model, bytes) else size_of(self._model)
        if size != self._bytes or _digest(metadata_of(session)) != before:
            raise ModelNotFound(
                f"{self._model!r} has changed since this predictor was made. Make a new one: Predictor(path)."
            )
        return session

    def _leave_behind(self) -> None:
        """Forget what does not work in a process that was just forked: locks, and sessions that have threads."""
        for session in (self._opened, self._single):
            if session is not None:
                _keep_for_ever(session)
        if self.engine is OPENVINO and self._opened is not None:
            _end_without_waiting()
        if self._opened is not None and (self._settings.threads != 1 or self.engine is not ONNXRUNTIME):
            if self._single is self._opened or self.engine is not ONNXRUNTIME:
                self._single = None
            self._inherited, self._opened = self._opened, None
        self._make_locks()


def _watch_forks(network: Network) -> None:
    global _hooked
    _RUNNING.add(network)
    if not _hooked and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    _hooked = True


def _after_fork() -> None:
    for session in _REOPENED.values():
        _keep_for_ever(session)
    _REOPENED.clear()
    for network in list(_RUNNING):
        network._leave_behind()


def _end_without_waiting() -> None:
    """Let a forked process end without the destructors of C++, in which OpenVINO waits for threads of the old process.

    Python has ended by then: it has called its own exit functions and flushed its files. Only the GNU C library can do
    this. Elsewhere, as on macOS, `multiprocessing` does not fork, or ends its processes itself.
    """
    global _ends_at_once
    if not _ends_at_once:
        _ends_at_once = True
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import ctypes

            library = ctypes.CDLL(None)
            library.on_exit(library._exit, None)


def _kept(session: Session) -> Session:
    """Return a session. In a forked process in which OpenVINO would wait for ever when it is deleted, keep it."""
    if _ends_at_once:
        _keep_for_ever(session)
    return session


def _keep_for_ever(session: Session) -> None:
    """Prevent that Python deletes a session, not even at its exit.

    A session waits for its threads when it is deleted. In a forked process they do not exist, so that it would wait for
    ever or crash.
    """
    _LEFT_BEHIND.append(session)
    with contextlib.suppress(ImportError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _digest(metadata: Mapping[str, str]) -> str:
    import hashlib

    return hashlib.sha256(repr(sorted(metadata.items())).encode("utf-8", "backslashreplace")).hexdigest()


def metadata_of(session: Session) -> dict[str, str]:
    """Return the metadata entries of an open file.

    Raises:
        CorruptModel: If they are not UTF-8 text.
    """
    try:
        return session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise CorruptModel(f"the file's metadata are not UTF-8 text ({error}). Export the file again.") from None


def _check_graph(session: Session, info: ModelInfo) -> None:
    """Check that the graph's inputs and outputs match the metadata, and that the graph accepts any batch size.

    Raises:
        CorruptModel: If the inputs or outputs do not match, or the graph accepts only one batch size.
    """
    inputs = [(node.name, node.type, list(node.shape[1:])) for node in session.get_inputs()]
    wanted = [(INPUT, "tensor(uint8)", [*info.image.size, info.image.channels])]
    outputs = [(node.name, node.type, list(node.shape[1:])) for node in session.get_outputs()]
    expected = [(OUTPUT, "tensor(float)", [len(info.classes)])]
    if info.trust.get("outliers"):
        expected += [(name, "tensor(float)", []) for name in (OUTLIER_SCORE, FEATURE_NORM)]
    if inputs != wanted or outputs != expected:
        raise CorruptModel(
            f"the file's graph does not match its metadata. Inputs: {inputs}, outputs: {outputs}. "
            "Export the file again."
        )
    batch = session.get_inputs()[0].shape[0]
    if isinstance(batch, int):
        raise CorruptModel(
            f"the file's graph accepts only batches of {batch}, but zoo exports accept any. Export the file again."
        )

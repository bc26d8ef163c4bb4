"""Trains a model on the devices of all processes at once, with JAX: each device computes its share of each batch.

While a model is fitted, its variables are on all devices, and each process reads its share of each batch. Before and
after that, a process has the variables for itself, as if it were alone. Losses, gradients and the statistics of
BatchNorm are those of the whole batch, because JAX computes one step over all devices.

Keras distributes batches too (`keras.distribution`), but all batches alike. Here a batch whose pictures cannot be
divided, such as the last one of an epoch, is computed as a whole by every device, so that the step stays exact.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, hosts
from zoo.errors import UsageError
from zoo.hosts import Team

if TYPE_CHECKING:
    import keras

# So many batches are read twice, to see whether a share of a batch is the same as the same part of the whole batch.
COMPARED = 3
# The frozen part rounds a little differently in batches of another size.
TOLERANCE = 1e-2

# For each model, its optimizer and the functions that Keras has compiled for all devices.
_COMPILED: weakref.WeakKeyDictionary[keras.Model, tuple[Any, Any, Any]] = weakref.WeakKeyDictionary()


def check_batch_size(batch_size: int) -> None:
    """Check that the devices of all processes can share a batch. Without several of them, all sizes are allowed.

    Raises:
        UsageError: The pictures of a batch cannot be divided.
    """
    if hosts.current() is None:
        return
    import jax

    devices = len(jax.devices())
    if batch_size % devices:
        lower, higher = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = f"{lower} or {higher}" if lower else f"{higher}"
        raise UsageError(
            f"--batch-size is divided among {devices} devices, and {batch_size} cannot be divided by {devices}. Use "
            f"--batch-size {nearest}."
        )


@contextlib.contextmanager
def spread(trained_part: keras.Model, batches: Any, validation: Any) -> Iterator[tuple[Any, Any]]:
    """Put a compiled model on the devices of all processes inside this context. Alone, nothing changes.

    Args:
        trained_part: The compiled model, with a built optimizer.
        batches: Training batches.
        validation: Validation batches; None if there are none.

    Yields:
        The batches and the validation batches to fit with.
    """
    team = hosts.current()
    if team is None:
        yield batches, validation
        return
    devices = _Devices(team)
    val = None if validation is None else devices.shares(validation, compared=0)
    with devices.functions(trained_part), devices.variables(trained_part), team.explained():
        yield devices.shares(batches, compared=COMPARED), val


class _Devices:
    """The devices of all processes, and how arrays lie on them."""

    def __init__(self, team: Team):
        import jax

        self._team, self._jax = team, jax
        devices = jax.devices()
        self.count = len(devices)
        mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
        self._whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    @contextlib.contextmanager
    def functions(self, model: keras.Model) -> Iterator[None]:
        """Give a model the functions that are compiled for all devices; outside, it has its own."""
        own = model.train_function, model.test_function
        optimizer, *compiled = _COMPILED.get(model, (None, None, None))
        if optimizer is not model.optimizer:
            compiled = [None, None]
        model.train_function, model.test_function = compiled
        try:
            yield
            _COMPILED[model] = (model.optimizer, model.train_function, model.test_function)
        finally:
            model.train_function, model.test_function = own

    @contextlib.contextmanager
    def variables(self, model: keras.Model) -> Iterator[None]:
        """Put all variables of a model on all devices, and compile its functions for them."""
        keras = backend.start()
        _build(model)
        every = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        unique = list({id(variable): variable for variable in every}.values())
        for variable in unique:
            value = np.asarray(variable.value)
            # Keras keeps later values of a variable where its first one is.
            variable._layout = self._whole
            variable.assign(self._placed(value, divided=False))
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        with distribution.scope():
            # Within it, Keras says that the variables stay on all devices. Batches come there as they should.
            model.make_train_function()
            model.make_test_function()
        try:
            yield
        finally:
            for variable in unique:
                value, variable._layout = variable._value, None
                # After a failure in JAX, there are no values any more.
                with contextlib.suppress(Exception):
                    variable.assign(np.asarray(value))

    def shares(self, batches: Any, compared: int) -> Any:
        """Return a Keras dataset of batches on all devices, of which this process reads its share.

        Args:
            batches: The batches.
            compared: How many batches are read twice; see COMPARED.
        """
        base: Any = backend.start().utils.PyDataset
        devices, team = self, self._team

        class Shares(base):
            def __init__(self, batches: Any, compared: int) -> None:
                super().__init__(workers=0)
                self._batches, self._compared, self._mixes = batches, compared, False

            def __len__(self) -> int:
                return len(self._batches)

            def __getitem__(self, index: int) -> tuple[Any, ...]:
                size = self._batches.size(index)
                if size % devices.count:
                    return devices.batch(self._batches[index], divided=False)
                share = size // team.count
                part = slice(team.index * share, (team.index + 1) * share)
                if self._mixes:
                    return devices.batch(_cut(self._batches[index], part), divided=True)
                batch = self._batches.part(index, part)
                if self._compared:
                    self._compared -= 1
                    whole = _cut(self._batches[index], part)
                    # Some augmentations mix pictures of a batch, and need all of them.
                    self._mixes = not _alike(batch, whole)
                    batch = whole
                return devices.batch(batch, divided=True)

            @property
            def failed(self) -> Exception | None:
                return self._batches.failed

            def rest(self, first: int) -> Any:
                return Shares(self._batches.rest(first), self._compared)

            def on_epoch_end(self) -> None:
                self._batches.on_epoch_end()

        return Shares(batches, compared)

    def batch(self, batch: Any, *, divided: bool) -> Any:
        """Put a batch on all devices: divided among them, or as a whole on each."""
        return _mapped(lambda values: self._placed(values, divided=divided), batch)

    def _placed(self, values: np.ndarray, *, divided: bool) -> Any:
        if not divided:
            # Unlike `device_put`, this sends nothing to ask whether all processes have the same values.
            return self._jax.make_array_from_callback(values.shape, self._whole, lambda index: values[index])
        return self._jax.make_array_from_process_local_data(self._divided, np.ascontiguousarray(values))


def _build(model: keras.Model) -> None:
    """Make the variables of a model's optimizer and metrics, which Keras makes when it fits."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    inputs = tuple(np.zeros((2, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs)
    targets = np.zeros((2, *model.outputs[0].shape[1:]), "float32")
    model._symbolic_build(data_batch=(inputs if len(inputs) > 1 else inputs[0], targets))


def _mapped(function: Any, batch: Any) -> Any:
    return tuple(_mapped(function, each) for each in batch) if isinstance(batch, tuple) else function(batch)


def _cut(batch: Any, part: slice) -> Any:
    return _mapped(lambda values: values[part], batch)


def _alike(one: Any, other: Any) -> bool:
    """Return whether two batches have nearly the same values."""
    if isinstance(one, tuple):
        return all(_alike(a, b) for a, b in zip(one, other, strict=True))
    greatest = float(np.abs(other).max(initial=0.0))
    return float(np.abs(np.asarray(one, "float32") - other).max(initial=0.0)) <= TOLERANCE * max(greatest, 1e-6)

"""The settings of a training run: one frozen dataclass, from which the command line is made. Imports no jax."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from fcjax.expectations import UsageError
from fcjax.expectations import expect_number as _number
from fcjax.expectations import expect_one_of as _one_of
from fcjax.expectations import expect_whole_number as _whole_number
from fcjax.memory_size import memory_size

__all__ = ["MODELS", "OPTIMIZERS", "SCHEDULES", "STRATEGIES", "TASKS", "TrainConfig", "UsageError"]

Task = Literal["digits", "mnist", "fashion", "housing", "california", "table"]
Strategy = Literal["pmap", "jit", "shard"]
Optimizer = Literal["sgd", "momentum", "adam", "adamw", "rmsprop"]
Schedule = Literal["cosine", "constant", "step"]
Model = Literal["article", "mlp", "tabular"]
Activation = Literal[
    "linear",
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "softplus",
    "softmax",
    "log_softmax",
]
Kind = Literal["auto", "classification", "regression"]
Preset = Literal["article", "best"]
Features = Literal["standard", "quantile", "pieces"]
Precision = Literal["float32", "bfloat16", "float16"]
Matmul = Literal["float32", "tf32"]

TASKS: tuple[str, ...] = get_args(Task)
STRATEGIES: tuple[str, ...] = get_args(Strategy)
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
MODELS: tuple[str, ...] = get_args(Model)
SWEEPABLE = ("learning_rate", "weight_decay", "clip_norm")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run. Every field is a flag of ``fcjax train``."""

    task: Annotated[Task, tyro.conf.Positional] = "digits"
    """What to learn: images of digits or clothes, house prices, or a column of your own table."""
    file: Path | None = None
    """The table: CSV, Parquet or NPZ (with table only)."""
    target: str | None = None
    """The column to predict (with table only)."""
    kind: Kind = "auto"
    """Whether the target is a class or a number; found from its values where not given (with table only)."""
    categorical: tuple[str, ...] = ()
    """Columns of numbers that are codes (with table only)."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out (with table only)."""
    missing: tuple[str, ...] = ()
    """What means a missing entry, besides the usual marks (with table only)."""
    validation: float | None = None
    """Share of the training rows that is held out for choices; where not given 0.15 of a table, else none."""
    features: Features = "standard"
    """How columns of numbers are seen: by mean 0 and deviation 1, by rank (as quantiles of a normal distribution), or
    in pieces, as shares of --bins bins that hold equally many training rows."""
    patience: int | None = None
    """Stop when the validation loss has not fallen for so many epochs, and take the weights of its best epoch. Where
    not given a table's validation part chooses the best epoch too; 0 for the last epoch as it is."""
    preset: Preset | None = None
    """Starting values of the other settings: article trains as the article does, best by the best recipe known."""
    model: Model = "article"
    """The article's network for the task (784-512-256-10 for images, 64-32-1 for prices), an MLP of --hidden, or
    tabular: several nets of --hidden that share weights, for columns of numbers. A table has an MLP where not given."""
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the hidden layers of an MLP, or of tabular."""
    activation: Activation = "relu"
    """Hidden activation of an MLP."""
    members: int = 16
    """Nets that share their weights and answer together (with tabular only)."""
    bins: int = 48
    """Pieces of each number, with as many training rows in each (with tabular or pieces)."""
    embedding: int = 16
    """Width of the embedding of each number (with tabular only)."""
    dropout: float | None = None
    """Dropout rate after each hidden layer; where not given 0.2, and 0 in the article's network for prices."""
    input_dropout: float = 0.0
    """Dropout rate of the inputs."""
    adversarial: float = 0.0
    """Training samples are moved towards a greater loss, by a distance up to this (root mean square over the inputs,
    in units of their standard deviation)."""
    teacher: Path | None = None
    """A finished run: what its nets say of each training sample, in their mean, is learned besides the targets."""
    teacher_share: float = 0.5
    """Share of the training loss that is the distance from the teacher's answers (with --teacher)."""
    temperature: float = 4.0
    """Of the teacher's probabilities and the net's, for that distance: above 1 the unlikely classes count more (with
    --teacher, for classes)."""
    epochs: int = 20
    """Passes over the training set; of a table, where not given, more the smaller it is."""
    batch_size: int = 128
    """Samples per step, over all devices together; of a table, where not given, 8 to 256 by its size."""
    optimizer: Optimizer = "adam"
    """Update rule, with PyTorch's defaults."""
    learning_rate: float = 1e-3
    """Step size."""
    schedule: Schedule = "cosine"
    """How the step size goes on: down to 0 along half a cosine, constant (as in the article), or by steps."""
    warmup: float = 0.0
    """Epochs over which the step size first rises from 0."""
    step_epochs: float = 10.0
    """Epochs between two steps of --schedule step."""
    step_decay: float = 0.1
    """Factor of each step of --schedule step."""
    momentum: float | None = None
    """Of sgd, momentum (0.9 where not given) and rmsprop."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float | None = None
    """As in PyTorch: decoupled in adamw (0.01 where not given), L2 elsewhere (0)."""
    decay_biases: bool = True
    """Whether weight decay reaches biases and norms, as it does in PyTorch."""
    clip_norm: float | None = None
    """Largest norm of all gradients together."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes while training."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which evaluation then uses; 0 for none."""
    seed: int = 0
    """Seed of initial weights, order of samples and dropout."""
    seeds: int = 1
    """Number of replicas trained at once, with seeds SEED, SEED + 1, ..."""
    sweep: str | None = None
    """Values of one number of the optimiser, learning_rate=1e-4,3e-4,1e-3: a replica for each, all of the same seed."""
    strategy: Strategy = "pmap"
    """pmap: all local devices; jit: one device; shard: shard_map over a mesh of all devices."""
    devices: str | None = None
    """cpu, gpu, or how many devices to use; all that JAX finds where not given."""
    device_memory: str | None = None
    """Memory of each device for data, such as 500MB or 2GiB: sets that are larger are streamed. Where not given, half
    of what a GPU has; on a CPU all data is kept."""
    precision: Precision = "float32"
    """Arithmetic of the network; parameters and loss stay float32. float16 comes with a dynamic loss scale."""
    matmul: Matmul = "float32"
    """How float32 matrices are multiplied on a GPU; tf32 is faster and keeps 10 bits of mantissa."""
    data_dir: Path | None = None
    """Folder with the data files; downloaded to the user's cache where not given."""
    run_dir: Path | None = None
    """New folder for this run's results; runs/TASK-TIME where not given."""
    resume: bool = False
    """Go on with the run in --run-dir where it was stopped; with the same settings."""
    tensorboard: bool = False
    """Write the figures of each epoch for TensorBoard too, to RUN_DIR/tensorboard; needs tensorboardX."""
    segments: int = 1
    """Parts of an epoch; a run can be saved, or stopped by Ctrl-C or SIGTERM, after each."""
    checkpoint_every: int | None = None
    """Save every so many epochs."""
    checkpoint_seconds: float = 60.0
    """Save after the first part of an epoch that ends so many seconds after the last save."""
    keep_checkpoints: int = 2
    """How many of the last to keep; the best is kept besides, by validation or else training loss."""
    coordinator: str | None = None
    """HOST:PORT of process 0 of a run by several processes; auto asks SLURM, Kubernetes or the TPU."""
    num_processes: int | None = None
    """How many processes share the run (with --coordinator)."""
    process_id: int | None = None
    """This process's number, from 0 (with --coordinator)."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder (or $FCJAX_CACHE), so that the next start is quick."""

    def check(self) -> None:
        """Raises a ``UsageError`` that names the first field out of range, what was expected and what was found."""
        _one_of("task", self.task, TASKS)
        _one_of("model", self.model, MODELS)
        _one_of("activation", self.activation, get_args(Activation))
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("strategy", self.strategy, STRATEGIES)
        _one_of("precision", self.precision, get_args(Precision))
        _one_of("matmul", self.matmul, get_args(Matmul))
        _one_of("kind", self.kind, get_args(Kind))
        _one_of("features", self.features, get_args(Features))
        self._check_table()
        _ = self.device_bytes
        if self.swept and self.seeds > 1:
            raise UsageError(f"sweep: expected with one seed, found {self.seeds}")
        for name in ("epochs", "batch_size", "seeds", "segments", "keep_checkpoints", "members", "bins", "embedding"):
            _whole_number(name, getattr(self, name), least=1)
        _whole_number("seed", self.seed, least=0)
        if self.patience is not None:
            _whole_number("patience", self.patience, least=0)
        if self.checkpoint_every is not None:
            _whole_number("checkpoint_every", self.checkpoint_every, least=1)
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"checkpoint_seconds: expected a number of at least 0, found {self.checkpoint_seconds}")
        if self.coordinator != "auto":
            given = [value is not None for value in (self.coordinator, self.num_processes, self.process_id)]
            if any(given) and not all(given):
                raise UsageError("coordinator: expected with --num-processes and --process-id, found not all three")
            if self.num_processes is not None and not 0 <= (self.process_id or 0) < self.num_processes:
                raise UsageError(
                    f"process_id: expected a number from 0 to {self.num_processes - 1}, found {self.process_id}"
                )
        if self.resume and self.run_dir is None:
            raise UsageError("resume: expected --run-dir with the folder of the run to go on with, found none")
        for width in self.hidden:
            _whole_number("hidden", width, least=1)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(f"learning_rate: expected a finite number above 0, found {self.learning_rate}")
        for name in ("dropout", "input_dropout", "label_smoothing", "ema", "momentum"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 <= rate < 1.0:
                raise UsageError(f"{name}: expected a rate in [0, 1), found {rate}")
        if not 0.0 <= self.teacher_share <= 1.0:
            raise UsageError(f"teacher_share: expected a share in [0, 1], found {self.teacher_share}")
        if self.validation is not None and not 0.0 <= self.validation < 1.0:
            raise UsageError(f"validation: expected a share in [0, 1), found {self.validation}")
        for name in ("warmup", "weight_decay", "step_decay", "adversarial"):
            _number(name, getattr(self, name), above=False)
        for name in ("step_epochs", "clip_norm", "temperature"):
            _number(name, getattr(self, name), above=True)

    @property
    def device_bytes(self) -> int | None:
        """``device_memory`` in bytes.

        Raises:
            UsageError: it is no amount of memory.
        """
        try:
            return None if self.device_memory is None else memory_size(self.device_memory)
        except ValueError as error:
            raise UsageError(f"device_memory: {error}") from None

    @property
    def swept(self) -> tuple[str, tuple[float, ...]] | None:
        """Name and values of the sweep; None without one.

        Raises:
            UsageError: another form, or a number that can't be swept.
        """
        if self.sweep is None:
            return None
        name, _, values = self.sweep.partition("=")
        name = name.replace("-", "_")
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            numbers = ()
        if name not in SWEEPABLE or not numbers or not all(math.isfinite(v) and v > 0 for v in numbers):
            raise UsageError(
                f"sweep: expected NAME=NUMBER,NUMBER,... above 0 with {', '.join(SWEEPABLE)}; found {self.sweep!r}"
            )
        return name, numbers

    @property
    def replicas(self) -> int:
        """How many nets are trained at once."""
        return len(self.replica_seeds)

    @property
    def replica_seeds(self) -> list[int]:
        """The seed of each of them."""
        if self.swept:
            return [self.seed] * len(self.swept[1])
        return [self.seed + k for k in range(self.seeds)]

    def _check_table(self) -> None:
        """The settings of a table come with a table, and only with one."""
        needed = {"file": self.file, "target": self.target}
        if self.task == "table":
            for name, value in needed.items():
                if value is None:
                    raise UsageError(f"{name}: expected with the task table (--file F --target COLUMN), found none")
            return
        for name in (*needed, "categorical", "ignore", "missing"):
            if getattr(self, name):
                raise UsageError(f"{name}: expected with the task table only, found with {self.task}")

    def to_json(self) -> dict[str, object]:
        """All fields as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

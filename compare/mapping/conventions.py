"""How arrays are laid out on both sides: which move of axes turns a torch array into a Flax leaf.

torch keeps (out, in, *window), Flax (*window, in, out); heads may be apart in Flax, and a bare array may be either way
round.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch

from compare.mapping.rules import Found, Part, Rule

__all__ = ["Kind", "Move", "Piece", "Slot", "expected_shape", "kind_of", "make_rule", "moves"]

Kind = Literal["linear", "conv", "conv_transpose", "embedding", "norm", "array"]

_CLASSES: list[tuple[tuple[type[torch.nn.Module], ...], Kind]] = [
    ((torch.nn.Linear,), "linear"),
    ((torch.nn.modules.conv._ConvTransposeNd,), "conv_transpose"),
    ((torch.nn.modules.conv._ConvNd,), "conv"),
    ((torch.nn.Embedding, torch.nn.EmbeddingBag), "embedding"),
    ((torch.nn.modules.batchnorm._NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm), "norm"),
]


def kind_of(owner: type[torch.nn.Module]) -> Kind:
    """How a module of this class lays out its weight."""
    return next((kind for classes, kind in _CLASSES if issubclass(owner, classes)), "array")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A torch array, or the part of one, that a rule moves.

    Args:
        source: torch name.
        whole: the source's shape.
        kind: of the module that holds it.
        owner: name of that module's class.
        parameter: False for a buffer.
        part: None for all of it.
        constant: whether Flax may compute it, as ``TorchLeaf`` says.
    """

    source: str
    whole: tuple[int, ...]
    kind: Kind
    owner: str
    parameter: bool = True
    part: Part | None = None
    constant: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part."""
        return self.whole if self.part is None else self.part.shape


@dataclasses.dataclass(frozen=True)
class Slot:
    """A Flax leaf, or the part of one, that a rule fills.

    Args:
        target: dotted path.
        whole: the leaf's shape.
        place: None for all of it.
    """

    target: str
    whole: tuple[int, ...]
    place: Part | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part."""
        return self.whole if self.place is None else self.place.shape

    @property
    def leaf(self) -> str:
        """The last part of the path."""
        return self.target.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Move:
    """A permutation of axes, then some reversed."""

    permutation: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What becomes of ``shape``."""
        return shape if self.permutation is None else tuple(shape[axis] for axis in self.permutation)


_STAY = Move()


def make_rule(piece: Piece, slot: Slot, move: Move, found: Found = "name", added: bool = False) -> Rule:
    """The rule by which ``piece`` fills ``slot``."""
    moved = move.shape(piece.shape)
    return Rule(
        piece.source,
        slot.target,
        move.permutation,
        shape=piece.whole,
        part=piece.part,
        flip=move.flip,
        result=None if moved == slot.shape else slot.shape,
        place=slot.place,
        target_shape=slot.whole if slot.place is not None else (),
        added=added,
        found=found,
    )


def moves(piece: Piece, slot: Slot) -> list[Move]:
    """Every way in which ``piece`` may be laid out in ``slot``, likeliest first; none where it does not fit."""
    shape, found = piece.shape, slot.shape
    if math.prod(shape) != math.prod(found):
        return []
    if sum(size > 1 for size in shape) < 2 and len(shape) < 2:
        return [_STAY]  # a vector, which Flax may keep with heads apart, or with axes of length one
    every = {
        "linear": _linear,
        "conv": _conv,
        "conv_transpose": _conv_transpose,
        "embedding": _embedding,
        "norm": _array,
        "array": _array,
    }[piece.kind](shape, slot)
    return list(dict.fromkeys(every))


def expected_shape(piece: Piece) -> tuple[int, ...]:
    """The shape that Flax's own layer would have for ``piece``."""
    n = len(piece.shape)
    if n >= 2 and piece.kind in ("linear", "conv"):
        return _window(n).shape(piece.shape)
    return piece.shape


def _window(n: int) -> Move:
    return Move((*range(2, n), 1, 0))


def _alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Equal but for axes of length one."""
    return a == b or tuple(size for size in a if size > 1) == tuple(size for size in b if size > 1)


def _splits(shape: tuple[int, ...], rows: int) -> bool:
    """Whether the leading axes of ``shape`` make up ``rows``."""
    return any(math.prod(shape[:k]) == rows for k in range(1, len(shape)))


def _linear(shape: tuple[int, ...], slot: Slot) -> list[Move]:
    if slot.leaf == "embedding":
        return [_STAY] if shape == slot.shape else []
    turned = [_window(2)] if _splits(slot.shape, shape[1]) else []
    stays = [_STAY] if slot.leaf != "kernel" and shape == slot.shape else []
    return turned + stays


def _conv(shape: tuple[int, ...], slot: Slot) -> list[Move]:
    n = len(shape)
    if _alike(_window(n).shape(shape), slot.shape):
        return [_window(n)]
    if slot.leaf != "kernel" and shape == slot.shape:
        return [_STAY]
    if len(slot.shape) == 2 and slot.shape[1] == shape[0]:  # a convolution of patches as a matrix product
        return [_window(n), Move((1, *range(2, n), 0))]
    return []


def _conv_transpose(shape: tuple[int, ...], slot: Slot) -> list[Move]:
    # torch scatters the window; Flax correlates with it, so it is reversed, unless transpose_kernel asks for torch's.
    n = len(shape)
    every = [Move((*range(2, n), 0, 1), tuple(range(n - 2))), Move((*range(2, n), 1, 0))]
    return [move for move in every if move.shape(shape) == slot.shape]


def _embedding(shape: tuple[int, ...], slot: Slot) -> list[Move]:
    if slot.leaf == "kernel":
        return [Move((1, 0))] if shape[::-1] == slot.shape else []
    return [_STAY] if _alike(shape, slot.shape) else []


def _array(shape: tuple[int, ...], slot: Slot) -> list[Move]:
    """An array of the user's own may be any way round, and have axes of length one anywhere."""
    n = len(shape)
    axes = [axis for axis in range(n) if shape[axis] > 1]
    reverse = axes[::-1]
    usual = [reverse, axes] if slot.leaf == "kernel" else [axes, reverse]
    if len(axes) > 2:
        usual.insert(1, [*axes[1:], axes[0]])  # as an image, channels last
        usual.append([*axes[2:], axes[1], axes[0]])  # as the kernel of a convolution
    ordered = dict.fromkeys(_ordered(n, order) for order in usual)
    fitting = [move for move in ordered if _alike(move.shape(shape), slot.shape)]
    if fitting:
        return fitting
    every = (Move(order) for order in itertools.permutations(range(n))) if n <= 4 else ()
    permuted = [move for move in every if move.shape(shape) == slot.shape]
    if permuted or n != 2:
        return permuted
    ways = [(shape[1], Move((1, 0))), (shape[0], _STAY)]
    return [move for rows, move in ways if _splits(slot.shape, rows)]


def _ordered(n: int, order: Sequence[int]) -> Move:
    """The move that brings the axes ``order`` behind all others, which have length one."""
    if list(order) == sorted(order):
        return _STAY
    return Move((*(axis for axis in range(n) if axis not in order), *order))

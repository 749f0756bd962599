"""How alike two names are, as people and frameworks write them.

``layers.0.fc1``, ``layers_0.Dense_0`` and ``Layer_0.linear_1`` may name the same module. A name is taken apart into
words and a number; words have synonyms; numbers count by their rank among siblings, since one side may start from one
or leave out layers without weights.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

__all__ = ["Component", "Names", "same_name", "similarity"]

_SYNONYMS = {
    "linear": "fc dense linear lin proj projection lineargeneral densegeneral conv1d",
    "conv": "conv convolution conv2d conv3d",
    "convtranspose": "convtranspose deconv upconv convtranspose1d convtranspose2d",
    "norm": "norm ln layernorm bn batchnorm gn groupnorm rmsnorm rms layernormalization batchnorm1d batchnorm2d",
    "embed": "embed embedding embeddings emb table wte",
    "attention": "attn attention mha mhsa multiheadattention multiheaddotproductattention selfattention",
    "query": "q query wq", "key": "k key wk", "value": "v value wv", "out": "o out output wo",
    "position": "pos position positional positions wpe", "token": "tok token tokens word",
    "layer": "layer layers block blocks h", "encoder": "enc encoder", "decoder": "dec decoder",
    "head": "head classifier logits lmhead", "feedforward": "mlp ffn ff feedforward",
    "recurrent": "rnn lstm gru cell optimizedlstmcell lstmcell grucell simplecell recurrent",
    "forward": "forward forwards fwd fw ltr l2r", "backward": "backward backwards bwd bw reverse reversed rev rtl r2l",
    "ih": "ih input inp in2h i2h x2h", "hh": "hh hidden hid h2h",
    "weight": "weight kernel w scale gamma", "bias": "bias b beta", "shortcut": "shortcut downsample skip",
}  # fmt: skip
_CANONICAL = {word: name for name, words in _SYNONYMS.items() for word in words.split()}
# Words that are written together with the word before.
_ENDINGS = ("block", "layer", "norm", "head", "embedding", "embed", "attention", "attn", "proj", "conv")
# Words that say of what class a module is, which many modules of one net share.
_CLASS_WORDS = frozenset({"linear", "conv", "convtranspose", "norm", "recurrent", "weight", "bias", "layer"})


@dataclasses.dataclass(frozen=True)
class Component:
    """One word of a dotted name.

    Args:
        word: canonical.
        raw: the part that it ends, as written; empty for the words before.
        rank: of its number among its siblings; None without a number.
        count: how many siblings differ from it in the number only, itself included.
        own: whether a person chose the number ("fc1"), not a list or a framework ("layers.1", "Dense_1").
    """

    word: str
    raw: str
    rank: int | None
    count: int
    own: bool


def _compound(part: str) -> list[str]:
    """The word, or the two of one written together: "encoderblock", "patchembed"."""
    word = part.lower()
    if word not in _CANONICAL:
        for end in _ENDINGS:
            if len(word) >= len(end) + 3 and word.endswith(end):
                return [part[: -len(end)], end]
    return [part]


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    whole = text.replace("_", "").lower()
    parts = [word for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text) for word in _compound(part)]
    letter = _CANONICAL.get(parts[-1].lower()) if len(parts) > 1 and len(parts[-1]) == 1 else None
    if whole in _CANONICAL and letter in (None, _CANONICAL[whole]):  # "to_k" is a key, and no token
        return (_CANONICAL[whole],)
    return tuple(_CANONICAL.get(part.lower(), part.lower()) for part in parts) or ("",)


@lru_cache(maxsize=4096)
def _split(part: str) -> tuple[str, int | None, bool]:
    """Stem, number, and whether a person chose the number."""
    found = re.fullmatch(r"(.*?)(_?)(\d+)", part)
    if found is None:
        return part, None, False
    stem, underscore, number = found.groups()
    automatic = not stem or (bool(underscore) and stem[:1].isupper()) or stem in ("layers", "blocks")
    return stem, int(number), not automatic


def _levels(path: str) -> list[tuple[str, int | None, bool]]:
    """Dotted parts with the numbers of lists joined to the list's name: "layers.0.fc" as (layers, 0), (fc, None)."""
    levels: list[tuple[str, int | None, bool]] = []
    for part in path.split("."):
        stem, number, own = _split(part)
        if not stem and levels and levels[-1][1] is None:
            levels[-1] = (levels[-1][0], number, False)
        else:
            levels.append((stem, number, own))
    return levels


class Names:
    """The names of one side, whose numbers count by rank among those of the same kind.

    Args:
        kinds: name -> kind of what it names; the number of a layer is compared with layers of its kind.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._levels = {name: _levels(name) for name in kinds}
        self._kinds = kinds
        siblings: dict[tuple[object, ...], set[int]] = {}
        for name in kinds:
            for key, number in self._keys(name):
                if number is not None:
                    siblings.setdefault(key, set()).add(number)
        self._ranks = {key: {n: rank for rank, n in enumerate(sorted(found))} for key, found in siblings.items()}

    def _keys(self, name: str) -> Iterable[tuple[tuple[object, ...], int | None]]:
        levels = self._levels[name]
        for depth, (stem, number, _) in enumerate(levels):
            kind = self._kinds[name] if depth + 1 == len(levels) else "container"
            yield (tuple(level[:2] for level in levels[:depth]), stem, kind), number

    def components(self, name: str) -> tuple[Component, ...]:
        """``name`` taken apart."""
        found = []
        for (key, number), (stem, _, own) in zip(self._keys(name), self._levels[name], strict=True):
            ranks = self._ranks.get(key, {})
            rank = None if number is None else ranks[number]
            *before, last = _words(stem)
            found += [Component(word, "", None, 0, False) for word in before]
            found.append(Component(last, f"{stem}{'' if number is None else number}", rank, len(ranks), own))
        return tuple(found)

    def last_words(self, name: str) -> tuple[str, ...]:
        """The words of the last dotted part: (query, linear) of "attn.q_proj"."""
        stem, _, _ = self._levels[name][-1]
        return _words(stem)


def similarity(ours: tuple[Component, ...], theirs: tuple[Component, ...]) -> float:
    """Between 0 and 1: the best alignment of their words, in order, as a share of all words."""
    if ours == theirs:
        return 1.0
    row = [0.0] * (len(theirs) + 1)
    for a in ours:
        diagonal = 0.0
        for j, b in enumerate(theirs):
            best = max(row[j + 1], row[j], diagonal + _alike(a, b))
            diagonal, row[j + 1] = row[j + 1], best
    return 2 * row[-1] / max(sum(map(_weight, (*ours, *theirs))), 0.5)


def same_name(ours: tuple[Component, ...], theirs: tuple[Component, ...]) -> bool:
    """Whether both say the same in all words, and in all numbers by rank, of lists of the same length."""
    return len(ours) == len(theirs) and all(
        a.word == b.word and ((a.rank == b.rank and a.count == b.count) or (a.own and b.own and a.raw == b.raw))
        for a, b in zip(ours, theirs, strict=True)
    )


def _weight(component: Component) -> float:
    return 0.5 if component.word in _CLASS_WORDS or not component.word else 1.0


@lru_cache(maxsize=65536)
def _alike(a: Component, b: Component) -> float:
    if a.word != b.word:
        # A bare number, as in torch's Sequential, stands for whatever has a number in a list of that length.
        numbers = "" in (a.word, b.word) and None not in (a.rank, b.rank) and a.count == b.count
        return 0.4 if numbers and a.rank == b.rank else 0.0
    share = _weight(a)
    if a.rank is None or b.rank is None:
        return share if a.rank == b.rank else 0.7 * share
    if a.own and b.own and a.raw == b.raw:
        return share
    if a.count != b.count:  # numbers of other lists say nothing
        return 0.6 * share
    # Rank alone is a little less than the very same name; another number is nearly another module.
    same = 0.8 if a.own or b.own else 1.0
    return share * (same if a.rank == b.rank else 0.15)

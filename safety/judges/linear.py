"""Linear models over hashed text: features, fit, artefact on disk. Knows texts and numbers; knows no policy, no judge.

Words and character n-grams are hashed, so an artefact holds weights and no word of its training data. On disk it is
`model.safetensors` (idf, coefficients, intercepts) beside `model.json` (settings, labels, calibration): no pickle.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError

SCHEMA = "linear/v1"
_WORD = r"[^\W_]+(?:'[^\W_]+)?|[!?]"
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextHasher:
    """Text -> one row of a sparse matrix: hashed word and character n-grams, log(1 + count), times idf, length 1."""

    bits: int = 15
    """Columns for words: 2 ** bits."""
    char_bits: int = 14
    """Columns for characters: 2 ** char_bits."""
    words: tuple[int, int] = (1, 2)
    """Shortest and longest word n-gram."""
    chars: tuple[int, int] | None = (2, 5)
    """The same for characters within words; None: words only."""
    first_words: int | None = None
    """Only the beginning of the text, in words."""

    def counts(self, texts: Sequence[str]) -> Any:
        """CSR matrix [texts, columns] of log(1 + count)."""
        import scipy.sparse as sp

        cleaned = [self._clean(text) for text in texts]
        parts = [part.transform(cleaned) for part in self._vectorizers()]
        matrix = sp.hstack(parts, format="csr")
        matrix.data = np.log1p(matrix.data)
        return matrix

    def _vectorizers(self) -> list[Any]:
        from sklearn.feature_extraction.text import HashingVectorizer

        # Alternating signs would let n-grams that collide cancel out, but log(1 + count) needs counts.
        common: dict[str, Any] = {"norm": None, "alternate_sign": False, "lowercase": False}
        words = {"ngram_range": self.words, "n_features": 2**self.bits, "token_pattern": _WORD}
        made = [HashingVectorizer(**words, **common)]
        if self.chars is not None:
            chars = {"ngram_range": self.chars, "n_features": 2**self.char_bits, "analyzer": "char_wb"}
            made.append(HashingVectorizer(**chars, **common))
        return made

    def _clean(self, text: str) -> str:
        cleaned = re.sub(r"https?://\S+|\burl\b", " _url_ ", plain_text(text))
        cleaned = re.sub(r"@\w+|\[user\]", " _user_ ", cleaned)
        return cleaned if self.first_words is None else " ".join(cleaned.split()[: self.first_words])


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearModel:
    """Logistic regressions, one a label, over one matrix of features; each calibrated by a line on its logit."""

    labels: tuple[str, ...]
    idf: Array
    """[columns]"""
    coef: Array
    """[labels, columns]"""
    bias: Array
    """[labels]"""
    calibration: tuple[tuple[float, float], ...] = ()
    """(slope, intercept) on the logit, a label; empty: none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How features come to be, and what the model was trained on: kept in the artefact."""

    def logits(self, counts: Any) -> Array:
        """[texts, labels] from the counts of a hasher."""
        from sklearn.preprocessing import normalize

        weighted: Any = normalize(counts.multiply(self.idf[None, :]).tocsr())
        raw = np.asarray(weighted @ self.coef.T) + self.bias
        if not self.calibration:
            return raw
        slope, shift = np.array(self.calibration).T
        return raw * slope + shift

    def probabilities(self, counts: Any) -> Array:
        """[texts, labels] in 0..1."""
        return sigmoid(self.logits(counts))


def fit_linear(
    counts: Any,
    targets: Array,
    labels: Sequence[str],
    *,
    C: float = 10.0,
    solver: Literal["lbfgs", "liblinear"] = "lbfgs",
    weights: Array | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LinearModel:
    """One logistic regression a label, on rows whose target is not NaN. `targets`: [texts, labels] of 0, 1 or NaN.

    liblinear is far faster with more columns than rows; it shrinks the intercept too, which calibration mends.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    seen = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.log((1 + counts.shape[0]) / (1 + seen)) + 1
    matrix: Any = normalize(counts.multiply(idf[None, :]).tocsr())
    coef = np.zeros((len(labels), counts.shape[1]))
    bias = np.zeros(len(labels))
    for place, label in enumerate(labels):
        known = np.flatnonzero(~np.isnan(targets[:, place]))
        wanted = targets[known, place].astype(int)
        if len(set(wanted.tolist())) < 2:
            raise ConfigError(
                f"label {label}: all {len(wanted)} training rows say the same; it needs rows of both kinds"
            )
        own = None if weights is None else weights[known]
        model = LogisticRegression(C=C, max_iter=2000, solver=solver).fit(matrix[known], wanted, sample_weight=own)
        coef[place], bias[place] = model.coef_[0], model.intercept_[0]
    return LinearModel(labels=tuple(labels), idf=idf, coef=coef, bias=bias, settings=dict(settings or {}))


def fit_calibration(logits: Array, targets: Array) -> tuple[float, float]:
    """Platt's line (slope, intercept) on out-of-sample logits of one label; identity with fewer than 20 of a kind."""
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(targets)
    x, y = logits[known], targets[known].astype(int)
    if min(y.sum(), len(y) - y.sum()) < 20:
        return 1.0, 0.0
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(x[:, None], y)
    slope, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (slope, shift) if slope > 0 else (1.0, 0.0)


def calibrated(model: LinearModel, lines: Sequence[tuple[float, float]]) -> LinearModel:
    """The model with these lines, one a label."""
    return replace(model, calibration=tuple((float(a), float(b)) for a, b in lines))


def save_linear(models: Mapping[str, LinearModel], folder: Path, **facts: Any) -> str:
    """Write named models and `facts` as one artefact; return the digest of the weights."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    # Half precision moves a probability by less than 0.001, and halves the file.
    types = {"idf": np.float16, "coef": np.float16, "bias": np.float32}
    tensors = {
        f"{name}.{part}": np.ascontiguousarray(getattr(model, part).astype(kind))
        for name, model in models.items()
        for part, kind in types.items()
    }
    weights = save(tensors)
    (folder / "model.safetensors").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    described = {
        name: {"labels": model.labels, "calibration": model.calibration, "settings": dict(model.settings)}
        for name, model in models.items()
    }
    document = {"schema": SCHEMA, "weights_sha256": digest, "models": described, **facts}
    (folder / "model.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return digest


def load_linear(folder: Path) -> tuple[dict[str, LinearModel], dict[str, Any]]:
    """The models of an artefact, and what else its JSON says.

    Raises ConfigError: no artefact, one of another schema, or weights that are not those its JSON describes.
    """
    from safetensors.numpy import load_file

    described, weights = folder / "model.json", folder / "model.safetensors"
    if not described.is_file() or not weights.is_file():
        raise ConfigError(f"judge {folder}: no model.json with model.safetensors; make one: workbench judge train")
    try:
        document = json.loads(described.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"judge {described}: no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ConfigError(f"judge {described}: schema is not {SCHEMA}; train the judge again")
    # A calibration fitted to other weights would still give numbers, and they would be wrong.
    if document["weights_sha256"] != hashlib.sha256(weights.read_bytes()).hexdigest():
        raise ConfigError(f"judge {weights}: not the weights that model.json describes; train the judge again")
    tensors = load_file(weights)
    models = {
        name: LinearModel(
            labels=tuple(one["labels"]),
            idf=tensors[f"{name}.idf"].astype(np.float64),
            coef=tensors[f"{name}.coef"].astype(np.float64),
            bias=tensors[f"{name}.bias"].astype(np.float64),
            calibration=tuple((float(a), float(b)) for a, b in one["calibration"]),
            settings=one["settings"],
        )
        for name, one in document["models"].items()
    }
    return models, document


def hasher_settings(hasher: TextHasher) -> dict[str, Any]:
    """A hasher as plain values, for an artefact."""
    return asdict(hasher)


def build_hasher(settings: Mapping[str, Any]) -> TextHasher:
    """The hasher of an artefact's settings."""
    chars = settings["chars"]
    return TextHasher(
        bits=int(settings["bits"]),
        char_bits=int(settings["char_bits"]),
        words=tuple(settings["words"]),
        chars=None if chars is None else tuple(chars),
        first_words=settings["first_words"],
    )


def plain_text(text: str) -> str:
    """Lower case, one kind of apostrophe, no invisible characters, compatibility forms folded (NFKC)."""
    import unicodedata

    folded = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'").replace("ʼ", "'")
    return "".join(c for c in folded if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc")).lower().strip()


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))))

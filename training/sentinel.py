"""Watch a run from inside: ask the live model the retained questions, act where it forgets. A hook of `training.run`.

What is asked is handed in: a callable that gives the value of each item for a model in memory. Two probes need no old
data at all: the loss of texts that the start itself wrote before the run, and the KL from the start on tokens of the
new task. The start's own values are measured once and kept in the run's folder, so that a run which was killed decides
as it would have. Nothing here touches the numbers of training: generators, modes and gradients are as they were.
"""

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.checkpoints import write_whole
from training.control import Control, Judged, Measured, Memory, decide, memory_of, raised_shares, watch
from training.hooks import Hook, Running
from training.mixing import IGNORED, PackedRow
from workbench.errors import ConfigError, RunError

Measure = Callable[[Any], Mapping[str, Measured]]
"""The model as transformers knows it -> retained tasks by name; the same items in the same order each time."""
START, PACE = "sentinel.npz", "sentinel.json"
SELF_WRITTEN = "self-written text"
TEXT_TOKENS, TEXT_BATCH = 64, 16
KL_ROW, KL_POSITIONS = 256, 256
"""Tokens of a row that are read for the KL: two rows of 256 cost a fiftieth of a step of 8,192 tokens."""
"""Tokens of the new task on which the KL is taken; 49,152 words in half precision make 25 MB of them."""
_TIMED = (2, 5)
"""Steps of a process between which the time of a step is taken: the first ones warm up."""


class Sentinel(Hook):
    """Evaluates every so many steps, and stops, re-mixes or rolls back as the recipe says."""

    name = "sentinel"

    def __init__(
        self,
        control: Control,
        measure: Measure | None,
        *,
        task_rows: Sequence[PackedRow] = (),
        on_judged: Callable[[Judged], None] = lambda _: None,
    ) -> None:
        """
        Args:
            control: what the recipe says.
            measure: the retained tasks of a model; None where only the self-written texts are watched.
            task_rows: rows of the new task, for the KL.
            on_judged: hears every evaluation.
        """
        self.control, self.measure, self.task_rows, self.tell = control, measure, task_rows, on_judged
        self.memory = Memory()
        self.every = control.every
        self.seconds = 0.0
        """Spent on watching by this process."""
        self._start: dict[str, Any] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._steps, self._since = 0, 0.0

    def state(self) -> dict[str, Any]:
        """See `training.hooks`."""
        return asdict(self.memory)

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `training.hooks`."""
        self.memory = memory_of(state)

    def on_begin(self, run: Running) -> None:
        """Measure the start, or read what an earlier process measured of it."""
        if any(type(parameter).__name__ == "DTensor" for parameter in run.model.parameters()):
            raise ConfigError(
                "control: weights that are sharded over processes cannot be asked while they train; leave control out, "
                "or train without sharding"
            )
        began, file = time.perf_counter(), run.folder / START
        self._steps = 0
        if not file.is_file():
            if run.step > 0:
                raise RunError(f"{file} is gone, so nothing says what the start knew; restore it, or begin a new run")
            with undisturbed(run.model, run.recipe.seed) as model:
                self._measure_start(run, model, file)
            self.seconds += time.perf_counter() - began
        with np.load(file, allow_pickle=False) as kept:
            self._start = {name: kept[name] for name in kept.files}
        pace = run.folder / PACE
        if self.every is None and pace.is_file():
            self.every = json.loads(pace.read_text()).get("every")

    def on_step(self, run: Running) -> None:
        """Evaluate where it is time, or where the KL from the start alarms."""
        self._steps += 1
        if self.every is None:
            self._find_pace(run)
        due = self.every is not None and run.step % self.every == 0
        due = self._kl_alarms(run) or due
        if due and run.step < run.plan.steps:  # the last one is evaluated in full, and gated
            self._evaluate(run)

    def _evaluate(self, run: Running) -> None:
        began = time.perf_counter()
        with undisturbed(run.model, run.recipe.seed) as model:
            now = self._measure(model)
        before = {name: replace(one, values=self._start[f"task {name}"]) for name, one in now.items()}
        for name, one in now.items():
            if len(one.values) != len(before[name].values):
                raise RunError(f"{name}: {len(one.values)} items, and the start was asked {len(before[name].values)}")
        watched = watch(before, now, self.control, seed=run.recipe.seed)
        judged, self.memory = _agreed(decide(run.step, watched, self.memory, self.control))
        judged = self._act(run, judged)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self._since += seconds  # the pace is that of training alone
        run.note({"event": "evaluated", "seconds": round(seconds, 2), **asdict(judged)})
        self.tell(judged)

    def _act(self, run: Running, judged: Judged) -> Judged:
        """Do what was decided; where no replay can be raised any more, the run is stopped."""
        match judged.verdict:
            case "ok" if self.control.on_forgetting == "roll_back":
                run.save()  # what can be gone back to
            case "stop":
                run.stop(f"forgot: {judged.why}")
            case "remix" | "roll_back":
                shares = self._raised(run, judged)
                if shares is None:
                    self.memory.verdict = "stop"
                    run.stop(f"forgot: {judged.why}; no replay is left to raise")
                    return replace(judged, verdict="stop", why=f"{judged.why}; no replay is left to raise")
                if judged.verdict == "remix":
                    first = run.set_shares(shares)
                    run.note({"event": "shares", "shares": shares, "from": first, "because": judged.why})
                else:
                    run.rewind(self.memory.last_good, shares, event=asdict(judged))
            case _:
                pass
        return judged

    def _raised(self, run: Running, judged: Judged) -> dict[str, float] | None:
        annealing = run.step >= run.plan.anneal_step
        held = run.shares_at(run.step) or run.recipe.shares(annealing=annealing)
        shares = {source.name: held.get(source.name, 0.0) for source in run.recipe.mix}
        keys = {key for name in judged.slipped for key in self._keys.get(name, (name,))}
        sources = self.control.sources_for(sorted(keys))
        raised = raised_shares(shares, sources, self.control.replay_sources, self.control.max_replay)
        return raised if raised is None or not _wears_out(run, raised, sources) else None

    def _measure(self, model: Any) -> dict[str, Measured]:
        found = dict(self.measure(model)) if self.measure is not None else {}
        if self.control.self_written:
            found[SELF_WRITTEN] = Measured(
                values=text_losses(model, self._start["texts"]),
                margin=self.control.self_written_margin,
                binary=False,
                direction="lower",
                keys=(SELF_WRITTEN,),
            )
        self._keys = {name: (name, *one.keys) for name, one in found.items()}
        return found

    def _measure_start(self, run: Running, model: Any, file: Path) -> None:
        began = time.perf_counter()
        if self.control.self_written:
            self._start["texts"] = write_texts(model, run.tokenizer, self.control.self_written)
        if self.control.kl_every:
            rows, places = _kl_places(self.task_rows)
            self._start |= {"kl rows": rows, "kl places": places}
            self._start["kl start"] = _log_probabilities(model, rows, places).half().numpy()
        written = time.perf_counter()
        self._start |= {f"task {name}": one.values for name, one in self._measure(model).items()}
        pace = {"evaluation_s": time.perf_counter() - written, "start_s": time.perf_counter() - began}
        if _is_first():
            hidden = file.with_name(f".new-{file.name}")
            np.savez(hidden, **self._start)
            hidden.replace(file)
            write_whole(run.folder / PACE, json.dumps(pace))
        _wait()

    def _find_pace(self, run: Running) -> None:
        """Steps between evaluations that keep them within the recipe's share of the time; written down once."""
        if self._steps == _TIMED[0]:
            self._since = time.perf_counter()
        if self._steps < _TIMED[1]:
            return
        pace = json.loads((run.folder / PACE).read_text())
        step_s = (time.perf_counter() - self._since) / (_TIMED[1] - _TIMED[0])
        every = _agreed(max(1, math.ceil(pace["evaluation_s"] / (self.control.share * step_s))))
        self.every = every
        if _is_first():
            write_whole(run.folder / PACE, json.dumps(pace | {"every": every, "step_s": step_s}))
        run.note({"event": "pace", "every": every, "step_s": round(step_s, 3), **pace})

    def _kl_alarms(self, run: Running) -> bool:
        every = self.control.kl_every
        if not every or run.step % every:
            return False
        began = time.perf_counter()
        with undisturbed(run.model, run.recipe.seed) as model:
            kl = self._kl(model)
        self.seconds += time.perf_counter() - began
        self._since += time.perf_counter() - began
        over = self.control.kl_limit is not None and kl > self.control.kl_limit
        alarm = over and not self.memory.kl_alarmed
        run.note({"event": "kl", "nats": round(kl, 6), "alarm": alarm})
        self.memory.kl_alarmed = over
        return alarm

    def _kl(self, model: Any) -> float:
        """Forward KL from the start, mean over the tokens, in nats."""
        # what was rounded to half precision is a distribution again
        start = torch.log_softmax(torch.from_numpy(self._start["kl start"]).float(), -1)
        now = _log_probabilities(model, self._start["kl rows"], self._start["kl places"])
        return float((start.exp() * (start - now)).sum(-1).mean())


def _wears_out(run: Running, shares: Mapping[str, float], sources: Sequence[str]) -> bool:
    """Whether a source would be seen more often than the recipe allows, by the plan's tokens of one pass."""
    done, most = run.step / run.plan.steps, {source.name: source.max_epochs for source in run.recipe.mix}
    for planned in run.plan.sources:
        if planned.name in sources and planned.tokens and planned.epochs:
            passes = planned.epochs * (done + (1 - done) * shares[planned.name] * run.plan.tokens / planned.tokens)
            if passes > most[planned.name]:
                return True
    return False


@contextmanager
def undisturbed(model: Any, seed: int) -> Iterator[Any]:
    """The plain model, ready to be asked; afterwards all generators, modes and gradients are as they were."""
    plain = getattr(model, "module", model)
    plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
    was_training, threads = plain.training, torch.get_num_threads()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.manual_seed(seed)
    plain.eval()
    try:
        with torch.no_grad():
            yield plain
    finally:
        plain.train(was_training)
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


def write_texts(model: Any, tokenizer: Any, count: int) -> np.ndarray:
    """Texts that the model writes by itself, drawn at temperature 1: int64 [count, tokens], -1 after their end."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    texts = np.full((count, TEXT_TOKENS + 1), -1, np.int64)
    for at in range(0, count, TEXT_BATCH):
        rows = min(TEXT_BATCH, count - at)
        begin = torch.full((rows, 1), first, device=model.device)
        drawn = model.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=TEXT_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
        ).cpu()
        for row, tokens in enumerate(drawn):
            ends = (tokens[1:] == tokenizer.eos_token_id).nonzero()
            end = int(ends[0]) + 2 if len(ends) else len(tokens)
            texts[at + row, :end] = tokens[:end].numpy()
    return texts


def text_losses(model: Any, texts: np.ndarray) -> np.ndarray:
    """Mean loss of each text, nats per token; float64 [texts]."""
    losses: list[float] = []
    for at in range(0, len(texts), TEXT_BATCH):
        tokens = torch.from_numpy(texts[at : at + TEXT_BATCH]).to(model.device)
        known = tokens[:, 1:] >= 0
        ids = tokens.clamp(min=0)
        # padding follows the text, so causal attention never sees it
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        taken = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        losses += ((taken * known).sum(1) / known.sum(1).clamp(min=1)).double().tolist()
    return np.asarray(losses)


def _kl_places(rows: Sequence[PackedRow]) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of some rows and their positions, int64 [2, rows, tokens]; and the flat places whose next token
    carries loss. Where the beginnings carry none (a long question), whole rows are read."""
    for length in (KL_ROW, max(len(row.tokens) for row in rows)):
        tokens, places = _places(rows, length)
        if len(places):
            chosen = np.linspace(0, len(places) - 1, min(KL_POSITIONS, len(places))).astype(int)
            return tokens, places[chosen]
    raise RunError("control.kl_every: the rows of the new task carry no loss")


def _places(rows: Sequence[PackedRow], length: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.stack(
        [np.stack([row.tokens[:length] for row in rows]), np.stack([row.positions[:length] for row in rows])]
    )
    labels = np.stack([row.labels[:length] for row in rows])
    carries = np.zeros(labels.shape, bool)
    carries[:, :-1] = labels[:, 1:] != IGNORED
    return tokens, np.flatnonzero(carries)


def _log_probabilities(model: Any, rows: np.ndarray, places: np.ndarray) -> torch.Tensor:
    """Float32 [places, words] on the CPU."""
    ids, positions = (torch.from_numpy(part).to(model.device) for part in rows)
    hidden = model.base_model(input_ids=ids, position_ids=positions, use_cache=False)[0]
    flat = hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(places).to(model.device)]
    weight = model.get_output_embeddings().weight
    return torch.log_softmax((flat @ weight.T.to(flat.dtype)).float(), -1).cpu()


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _wait() -> None:
    if _several():
        torch.distributed.barrier()


def _agreed(found: Any) -> Any:
    """What the first process found, in every process."""
    if not _several():
        return found
    box = [found]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]

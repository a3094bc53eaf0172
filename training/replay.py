"""Replay that a model writes itself, for those who have no old data: conversations or texts sampled from its weights.

A little of what a model would have written anyway, mixed into its training, keeps most of what it could (Huang et al.
2024, arXiv 2403.01244). A chat model writes the user's turn first, from the empty beginning of one, and then answers it
(Xu et al. 2024, arXiv 2406.08464); a base model writes on from its first token. Knows an engine and a file.

Texts are written in rounds, each with seeds of its own, so a writing that was killed goes on to the same file. What was
written before a round was complete is cut off again.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.checkpoints import write_whole
from training.dedup import SeenTexts, word_runs
from workbench.engines import Engine, GenerateRequest
from workbench.errors import ConfigError, RunError

ROUND = 32
"""Texts that are written together."""
LEAST_KEPT = 0.05
"""Share of the texts that must be of use, after `PATIENCE` rounds."""
PATIENCE = 4
VARIED = 0.5
"""Share of a text's five-word runs that must differ; below it, the model goes round in circles."""
_MARK = "\x00HERE\x00"
_REFUSAL = re.compile(
    r"\b(i (?:can(?:'|no)?t|am unable to|am not able to|won't) (?:help|assist|provide|do that|fulfil|answer)"
    r"|i'm (?:unable|not able) to"
    r"|i'?m sorry, but|i apologi[sz]e, but|as an ai|against my (?:guidelines|programming))",
    re.IGNORECASE,
)

Kind = Literal["chat", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """How to write. All of it shapes the texts."""

    written_by: str
    """Fingerprint of the checkpoint."""
    kind: Kind
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 256


@dataclass(kw_only=True, slots=True)
class Written:
    """What is in the file, and what was not kept."""

    rounds: int = 0
    rows: int = 0
    tokens: int = 0
    """New tokens of the rows that were kept."""
    refusals: int = 0
    """Kept rows whose answer is a refusal, by its words."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Texts by reason: unfinished, empty, repetitive, repeated, nearly repeated."""
    size: int = 0
    """Bytes of the file."""


def kind_for(tokenizer: Any) -> Kind:
    """Conversations if there is a chat template, else texts."""
    return "chat" if getattr(tokenizer, "chat_template", None) else "text"


def write_replay(
    engine: Engine,
    writing: Writing,
    out: Path,
    *,
    tokens: int,
    on_round: Callable[[Written], None] = lambda _: None,
) -> Written:
    """Write rows into `out` until they hold `tokens` new tokens, or go on with what was begun.

    Raises:
        ConfigError: the file was begun otherwise, or is no file of ours.
        RunError: hardly any text is of use.
    """
    done, seen = _take_up(out, writing), SeenTexts(near=True)
    for row in _rows(out):
        seen.why_known(_texts(row))
    while done.tokens < tokens:
        lines = _write_round(engine, writing, done, seen)
        with out.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        done.rounds, done.size = done.rounds + 1, out.stat().st_size
        _keep_state(out, writing, done)
        on_round(done)
        if done.rounds >= PATIENCE and done.rows < LEAST_KEPT * done.rounds * ROUND:
            reasons = ", ".join(f"{count} {why}" for why, count in done.left_out.most_common())
            raise RunError(
                f"{out}: of {done.rounds * ROUND} texts {done.rows} are of use ({reasons}); try another --temperature, "
                "a larger --max-new-tokens, or --kind"
            )
    return done


def _write_round(engine: Engine, writing: Writing, done: Written, seen: SeenTexts) -> list[dict[str, Any]]:
    """The rows of the next round that are of use; `done` counts them and the others."""
    first = done.rounds * ROUND
    seeds = [writing.seed * 1_000_003 + first + number for number in range(ROUND)]
    found = (_chats if writing.kind == "chat" else _plain_texts)(engine, writing, seeds)
    lines: list[dict[str, Any]] = []
    for seed, (row, tokens, fault) in zip(seeds, found, strict=True):
        why = fault or _fault(row) or seen.why_known(_texts(row))
        if why:
            done.left_out[why] += 1
            continue
        lines.append({**row, "written_by": writing.written_by, "seed": seed})
        done.rows, done.tokens = done.rows + 1, done.tokens + tokens
        done.refusals += is_refusal(_texts(row)[-1]) if writing.kind == "chat" else 0
    return lines


def is_refusal(answer: str) -> bool:
    """Does an answer refuse, by its words? English only."""
    return _REFUSAL.search(answer[:300]) is not None


def _chats(engine: Engine, writing: Writing, seeds: Sequence[int]) -> list[tuple[dict[str, Any], int, str]]:
    tokenizer = engine.tokenizer
    opening, closing = user_turn(tokenizer)
    asked = _generate(engine, writing, [opening] * len(seeds), seeds, stop=(closing,))
    questions = [text.strip() for text, _, _ in asked]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question or "?"}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]
    answers = _generate(engine, writing, prompts, seeds, stop=(closing,))
    found: list[tuple[dict[str, Any], int, str]] = []
    for question, (_, first, ended), (answer, second, stopped) in zip(questions, asked, answers, strict=True):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
        found.append(({"messages": turns}, first + second, "" if ended and stopped else "unfinished"))
    return found


def user_turn(tokenizer: Any) -> tuple[str, str]:
    """What stands before a user's words in a conversation, and what ends them.

    Raises ConfigError: a template that shows no user's words.
    """
    text = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    opening, mark, rest = text.partition(_MARK)
    if not mark or not rest:
        raise ConfigError("the chat template marks no end of a user's turn; write plain texts with --kind text")
    return opening, rest.strip().splitlines()[0] if rest.strip() else rest


def _plain_texts(engine: Engine, writing: Writing, seeds: Sequence[int]) -> list[tuple[dict[str, Any], int, str]]:
    begins = engine.tokenizer.bos_token or engine.tokenizer.eos_token or ""
    found = _generate(engine, writing, [begins] * len(seeds), seeds)
    return [({"text": text.strip() if ended else _whole_sentences(text)}, tokens, "") for text, tokens, ended in found]


def _whole_sentences(text: str) -> str:
    """A text that was cut off, up to its last whole sentence."""
    ends = [match.end() for match in re.finditer(r"[.!?。！？][\"')\]]*(?=\s|$)|\n\n", text)]
    return text[: ends[-1]].strip() if ends else text.strip()


def _generate(
    engine: Engine, writing: Writing, prompts: Sequence[str], seeds: Sequence[int], stop: tuple[str, ...] = ()
) -> list[tuple[str, int, bool]]:
    """(text, new tokens, whether it ended by itself) of each prompt."""
    requests = [
        GenerateRequest(
            prompt=prompt,
            prompt_ids=tuple(engine.tokenizer(prompt, add_special_tokens=False)["input_ids"]),
            stop=stop,
            max_new_tokens=writing.max_new_tokens,
            temperature=writing.temperature,
            top_p=writing.top_p,
            seed=seed,
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    found = {index: answer for tile in engine.generate(requests) for index, answer in tile}
    return [(found[i].text, found[i].tokens, found[i].finish == "stop") for i in range(len(requests))]


def _fault(row: Mapping[str, Any]) -> str:
    texts = _texts(row)
    if not all(text.strip() for text in texts):
        return "empty"
    words = sum(len(text.split()) for text in texts)
    runs = len(word_runs("\n".join(texts)))
    return "repetitive" if words >= 20 and runs < VARIED * (words - 4) else ""


def _texts(row: Mapping[str, Any]) -> list[str]:
    return [turn["content"] for turn in row["messages"]] if "messages" in row else [row["text"]]


def _state_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.state.json")


def _keep_state(out: Path, writing: Writing, done: Written) -> None:
    fields = ("rounds", "rows", "tokens", "refusals", "size")
    state = {name: getattr(done, name) for name in fields} | {"left_out": dict(done.left_out)}
    write_whole(_state_of(out), json.dumps({"writing": _plain(writing), "done": state}))


def _plain(writing: Writing) -> dict[str, Any]:
    return {name: getattr(writing, name) for name in Writing.__dataclass_fields__}


def _take_up(out: Path, writing: Writing) -> Written:
    """Where an earlier writing of the same file stopped; what it did not finish is cut off."""
    path = _state_of(out)
    if not path.is_file():
        if out.is_file() and out.stat().st_size:
            raise ConfigError(f"{out}: is there already and was not begun by this command; name another file")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
        _keep_state(out, writing, Written())
    kept = json.loads(path.read_text(encoding="utf-8"))
    if odd := [name for name, value in _plain(writing).items() if kept["writing"].get(name) != value]:
        raise ConfigError(
            f"{out}: was begun with {odd[0]} {kept['writing'].get(odd[0])!r}, now {getattr(writing, odd[0])!r}; name "
            "another file, or go on as it was begun"
        )
    done = Written(**(kept["done"] | {"left_out": Counter(kept["done"]["left_out"])}))
    if not out.is_file() or out.stat().st_size < done.size:
        raise ConfigError(f"{out}: is shorter than what was written; remove {path.name} beside it to begin anew")
    with out.open("r+b") as file:
        file.truncate(done.size)
    return done


def _rows(out: Path) -> list[dict[str, Any]]:
    # not splitlines(): a model may write a line separator of Unicode, which ends no line of the file
    return [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]

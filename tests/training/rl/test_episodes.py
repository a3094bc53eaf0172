"""What a policy said is kept as it said it, whatever characters it found."""

from pathlib import Path

from training.rl.episodes import Episode, read_episodes, write_episodes
from workbench.progress import read_lines

ODD = "one\u2028two\x85three\x0cfour\x1dfive\r\nsix"
"""Unicode and ASCII know more ends of a line than a file of JSON lines does."""


def test_an_answer_with_every_kind_of_line_end_is_read_again_as_it_was(tmp_path: Path) -> None:
    said = [{"role": "user", "content": ODD}, {"role": "assistant", "content": ODD}]
    episode = Episode(row=0, epoch=0, sample=0, messages=said)
    write_episodes(tmp_path, 1, [episode, episode], {"log": {}})
    found = read_episodes(tmp_path, 1)
    assert found is not None and [one.answer for one in found[1]] == [ODD, ODD]
    (path,) = tmp_path.glob("*/generation-000001.jsonl")
    assert len(read_lines(path)) == 3

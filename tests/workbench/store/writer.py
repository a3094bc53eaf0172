"""A process that writes to a store until it is killed, and says on stdout what is written. Run by the crash tests.

python -m tests.workbench.store.writer URL FOLDER WRITER ROUNDS
"""

import sys
from pathlib import Path

from tests.workbench.store.samples import make_checkpoint, make_items, make_report
from workbench.records import ItemScore, Report
from workbench.store import LedgerEntry, Store, ledger_key

TILE = 40


def report_of(writer: int, number: int) -> tuple[Report, list[ItemScore]]:
    checkpoint = make_checkpoint(f"model-{writer}", "0123456789abcdef"[writer])
    return make_report(checkpoint, make_items(30, shift=float(number)))


def tile_of(owner: str, number: int) -> dict[bytes, LedgerEntry]:
    """The entries of a tile; every writer of the same owner would write the same ones."""
    return {
        ledger_key(owner, "t", "s", "score", ((number,), (place,))): LedgerEntry(
            logprob=-number - place / 7, is_greedy=place % 2 == 0, tokens=1
        )
        for place in range(TILE)
    }


def main() -> None:
    url, folder, writer, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with Store.open(url, folder=folder) as store:
        print("open", flush=True)
        for number in range(rounds):
            store.ledger.put_many(tile_of(f"writer-{writer}", number))
            print(f"tile {number}", flush=True)
            store.ledger.put_many(tile_of("shared", number))
            if number % 4 == 0:
                store.add_report(*report_of(writer, number))
                print(f"report {number}", flush=True)


if __name__ == "__main__":
    main()

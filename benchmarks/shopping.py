"""Questions of a shop from public sets: searches, a category tree, reviews, wishes. Knows rows; knows no prompt.

Each document has a `part`: a query, a shelf, a product or a wish is on one side of a split, `train` or `test`.
The shipped tasks ask the test side; whoever trains takes the other.
"""

import hashlib
import re
from collections import defaultdict

from benchmarks.draws import rng_of, with_distractors
from benchmarks.rows import Row


def _id(row: Row) -> Row:
    """Keep the row's id where it has one."""
    return {"id": row["id"]} if "id" in row else {}


def part_of(entity: str) -> str:
    """Which side of the split a product, a query or a shelf is on: half of them `train`, half `test`, by a hash."""
    return "test" if hashlib.sha256(entity.lower().encode()).digest()[0] % 2 else "train"


def wands_docs(rows: list[Row]) -> list[Row]:
    """Which of four product classes does a search belong to? Split by the query."""
    classes = sorted({row["query_class"] for row in rows})
    return [
        {
            **with_distractors(
                row["query"], row["query_class"], [c for c in classes if c != row["query_class"]], key=row["id"]
            ),
            **_id(row),
            "query_class": row["query_class"],
            "part": part_of(row["query"]),
        }
        for row in rows
    ]


NO_DEPARTMENT = {
    "Name Brands", "More Categories", "Gift Ideas", "Customer Service", "Best Buy Outlet", "Best Buy For Business",
    "Geek Squad", "Magnolia Home Theater",
}  # fmt: skip
NO_NAME = re.compile(r"\b(all|accessories|other|more|see|shop|new|deals?|sale|offers?|gifts?|top|services?)\b", re.I)


ASKED_OF_A_SHELF = 3
"""Goods of one shelf that are asked about, at most."""


def shelves_of(rows: list[Row]) -> dict[tuple[str, ...], list[str]]:
    """Shelves of goods with at least four entries: path -> names."""
    children = defaultdict(set)
    for row in rows:
        path = tuple(row["path"])
        if len(path) > 1 and path[0] not in NO_DEPARTMENT and not any(NO_NAME.search(name) for name in path[1:]):
            children[path[:-1]].add(path[-1])
    return {path: sorted(names) for path, names in children.items() if len(names) >= 4}


def category_docs(rows: list[Row]) -> list[Row]:
    """Ask a shop's category tree: the parent, a sibling, the one that does not belong. Split by the shelf.

    Only shelves of goods: departments of offers and brands, and names such as "All Products", are left out.
    """
    shelves = shelves_of(rows)
    docs: list[Row] = []
    for path, names in sorted(shelves.items()):
        key, parent = "/".join(path), path[-1]
        elsewhere = sorted(
            {name for other, more in shelves.items() if other[0] != path[0] for name in more} - set(names) - {parent}
        )
        others = sorted({other[-1] for other in shelves if other[0] != path[0]} - {parent} - set(names))
        names = rng_of(key).sample(names, len(names))
        asked = names[:ASKED_OF_A_SHELF]
        of_shelf: list[Row] = []
        for place, name in enumerate(asked):
            beside = names[(place + 1) % len(names)]
            last = f"{key}/{name}"
            of_shelf += [
                {"kind": "parent"}
                | with_distractors(f"In which category of a shop are {name}?", parent, others, key=last + "/parent"),
                {"kind": "sibling"}
                | with_distractors(
                    f"In a shop, which category stands next to {name}?", beside, elsewhere, key=last + "/sibling"
                ),
            ]
            of_shelf.append({"kind": "odd"} | _odd_one_out([n for n in names if n != name], elsewhere, key=last))
        docs += [{**doc, "shelf": key, "part": part_of(parent)} for doc in of_shelf]
    return docs


def _odd_one_out(names: list[str], elsewhere: list[str], *, key: str) -> Row:
    """Three of one shelf and one of another; the question shows them, since nobody can guess what was not said."""
    doc = with_distractors("", rng_of(key + "/other").choice(elsewhere), names, key=key + "/odd")
    return doc | {"question": f"Which of these does not belong with the others: {'; '.join(doc['choices'])}?"}


def review_docs(rows: list[Row]) -> list[Row]:
    """Is the opinion good or bad? Sentences whose opinions agree, as many good as bad ones. Split by the product."""
    kinds: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in _shuffled(rows):
        signs = {aspect["polarity"] > 0 for aspect in row["aspects"] if aspect["polarity"]}
        if len(signs) == 1:
            good = signs.pop()
            doc = {"choices": ["negative", "positive"], "answer": int(good)}
            kinds[_side(row), good].append(_sentence(row) | doc)
    return _balanced(kinds)


def opinion_docs(rows: list[Row]) -> list[Row]:
    """Does a sentence of a review judge the product or not? As many of each. Split by the product."""
    kinds: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in _shuffled(rows):
        judges = any(aspect["polarity"] for aspect in row["aspects"])
        if judges or not row["aspects"]:
            kinds[_side(row), judges].append(_sentence(row) | {"choices": ["no", "yes"], "answer": int(judges)})
    return _balanced(kinds)


def aspect_docs(rows: list[Row]) -> list[Row]:
    """Which feature of a product does a sentence judge? Wrong ones are features of the same product. By the product."""
    features = defaultdict(set)
    for row in rows:
        features[row["product"]] |= {aspect["aspect"].lower() for aspect in row["aspects"]}
    docs = []
    for row in _shuffled(rows):
        own = {aspect["aspect"].lower() for aspect in row["aspects"]}
        if len(own) != 1:
            continue
        right, text = own.pop(), row["text"].lower()
        # a wrong choice that stands in the sentence too, or in the right one, would be no wrong choice
        wrong = sorted(f for f in features[row["product"]] if f not in text and f not in right and right not in f)
        if len(wrong) >= 3:
            docs.append(_sentence(row) | with_distractors(row["text"], right, wrong, key=row["id"]))
    return docs


def _shuffled(rows: list[Row]) -> list[Row]:
    """In the order of the hashes of their ids."""
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())


def _side(row: Row) -> str:
    return part_of(row["product"])


def _sentence(row: Row) -> Row:
    """A sentence of a review; what one person wrote of one product is a cluster."""
    return {**_id(row), "question": row["text"], "review": f"{row['product']}/{row['review']}", "part": _side(row)}


def _balanced(kinds: dict[tuple[str, bool], list[Row]]) -> list[Row]:
    """As many of each kind, within each part."""
    docs = []
    for part in sorted({part for part, _ in kinds}):
        one, other = kinds[part, True], kinds[part, False]
        docs += [doc for pair in zip(one, other, strict=False) for doc in pair]
    return docs


def goal_docs(rows: list[Row], *, candidates: int = 8) -> list[Row]:
    """Rank queries for a shopper's wish: one that people wrote for it, and the most similar ones written for others.

    Split by the wish.
    """
    pool = [(row["id"], query) for row in rows for query in row["queries"]]
    docs = []
    for row in rows:
        own = {query.lower() for query in row["queries"]}
        right = sorted(own)[0]
        wish = set(row["instruction"].lower().split())
        rng = rng_of(row["id"])
        drawn = rng.sample(pool, min(200, len(pool)))
        others = sorted({query for key, query in drawn if key != row["id"]} - own)
        others.sort(key=lambda query: -len(wish & set(query.lower().split())) / len(set(query.split())))
        choices = [right, *others[: candidates - 1]]
        rng.shuffle(choices)
        relevance = [1.0 if choice == right else 0.0 for choice in choices]
        docs.append(
            {
                "question": row["instruction"],
                "choices": choices,
                "answer": choices.index(right),
                "relevance": relevance,
                "part": part_of(row["id"]),
            }
        )
    return docs

"""The shopping questions: what is trained on and what is tested never share a query, a shelf, a product or a wish."""

from collections import defaultdict

import pytest

from benchmarks.catalog import shipped_entries
from benchmarks.shopping import aspect_docs, category_docs, goal_docs, opinion_docs, part_of, review_docs, wands_docs

SHELVES = [
    {"id": f"{shelf}/{n}", "path": ["Shop", f"Shelf {shelf}", f"Good {shelf}-{n}"]}
    for shelf in range(40)
    for n in range(5)
] + [
    {"id": f"other/{far}/{n}", "path": ["Elsewhere", f"Far {far}", f"Thing {far}-{n}"]}
    for far in range(4)
    for n in range(5)
]
SENTENCES = [
    {
        "id": f"{product}/{n}",
        "product": f"product {product}",
        "review": n // 3,
        "text": f"the part {n % 5} of number {product} is fine, case {n}",
        "aspects": [{"aspect": f"part {n % 5}", "polarity": (2, -2, 0)[n % 3]}] if n % 4 else [],
    }
    for product in range(12)
    for n in range(30)
]
FEW = [f"Shelf {n}" for n in range(5)]
WISHES = [{"id": f"wish/{n}", "instruction": f"i want thing {n}", "queries": [f"thing {n}"]} for n in range(60)]
QUERIES = [{"id": f"q/{n}", "query": f"query {n}", "query_class": f"class {n % 9}"} for n in range(60)]
SPLIT = {
    "query": (wands_docs(QUERIES), "question"),
    "shelf": (category_docs(SHELVES), "shelf"),
    "review": (review_docs(SENTENCES), "review"),
    "opinion": (opinion_docs(SENTENCES), "review"),
    "aspect": (aspect_docs(SENTENCES), "review"),
    "wish": (goal_docs(WISHES), "question"),
}


@pytest.mark.parametrize("name", SPLIT)
def test_an_entity_is_on_one_side_of_the_split_and_both_sides_have_some(name):
    docs, entity = SPLIT[name]
    sides = defaultdict(set)
    for doc in docs:
        sides[doc[entity].split("/")[0] if entity == "review" else doc[entity]].add(doc["part"])
    assert {len(parts) for parts in sides.values()} == {1}
    assert {doc["part"] for doc in docs} == {"train", "test"}


def test_the_side_depends_on_the_entity_alone_and_not_on_its_case():
    assert part_of("Garden Chairs") == part_of("garden chairs")
    alone = category_docs([row for row in SHELVES if row["path"][1] in FEW or row["path"][0] == "Elsewhere"])
    whole = {doc["shelf"]: doc["part"] for doc in category_docs(SHELVES)}
    assert {doc["shelf"]: doc["part"] for doc in alone}.items() <= whole.items()


@pytest.mark.parametrize("task", [name for name in shipped_entries() if name.startswith("shopping_")])
def test_every_shopping_task_asks_the_test_side_only(task):
    assert shipped_entries()[task][0].where == {"part": ("test",)}


def test_the_odd_one_out_can_be_found_from_the_question():
    odd = [doc for doc in category_docs(SHELVES) if doc["kind"] == "odd"]
    assert odd
    for doc in odd:
        assert all(choice in doc["question"] for choice in doc["choices"])
        others = [choice for place, choice in enumerate(doc["choices"]) if place != doc["answer"]]
        assert len({choice.rpartition("-")[0] for choice in others}) == 1  # of one shelf
        assert doc["choices"][doc["answer"]].rpartition("-")[0] != others[0].rpartition("-")[0]


def test_a_wrong_feature_does_not_stand_in_the_sentence():
    for doc in aspect_docs(SENTENCES):
        wrong = [choice for place, choice in enumerate(doc["choices"]) if place != doc["answer"]]
        assert not [choice for choice in wrong if choice in doc["question"]]


@pytest.mark.parametrize("docs", [review_docs(SENTENCES), opinion_docs(SENTENCES)], ids=["reviews", "opinions"])
def test_both_answers_are_equally_frequent_on_each_side(docs):
    for part in ("train", "test"):
        answers = [doc["answer"] for doc in docs if doc["part"] == part]
        assert answers
        assert answers.count(0) == answers.count(1)

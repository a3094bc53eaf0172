"""Review: what is the right verdict here? One text at a time, by keyboard; who may do what is known to the queue.

Nothing is claimed before a person asks to start. The window's name stands in the address, so a page that is loaded
again has the same text. Never cached.
"""

import re
import secrets
import time

import streamlit as st

from dashboards import data, show
from dashboards import review_parts as parts
from dashboards import review_words as words
from dashboards.access import Person, go_by, person
from dashboards.options import options
from dashboards.review_session import KEY, Desk
from dashboards.show import Command
from safety.review.queue import Member, Operator, ReviewQueue
from safety.review.views import Kind
from workbench.errors import ReviewError
from workbench.publish.text import escape_markdown

QUESTION = "What is the right verdict here?"
FILL = "workbench review add posts.jsonl --policy default"
_ADD = "workbench review members add "
_OPERATOR = Operator(name="dashboard")
_SESSION = re.compile(r"^[0-9a-f]{8}$")
_WORKING, _SAID = "review_working", "review_notices"
_IDLE_EVERY_S = 15
_TONES = {"good": "check", "info": "info", "warn": "warning", "bad": "error"}


def page() -> None:
    """Draw the page."""
    queue, who = ReviewQueue.open(data.project()), person()
    if not queue.queues(_OPERATOR):
        show.question(QUESTION, "Nothing waits for a verdict: this project has no queue yet.")
        show.empty(
            "There are no texts to review. A queue is made when the first text is put into it.",
            Command(why="Put texts before people, with the rules of a policy:", line=FILL),
        )
        return
    member = _member(queue, who)
    if member is None:
        return
    places = queue.queues(member)
    if not places:
        show.question(QUESTION, "You are known here, and have no role in any queue of this project.")
        show.empty("Ask an admin for one.", Command(why="At this project's machine:", line=_ADD + member.name))
        return
    session = st.query_params.get("session", "")
    if _SESSION.match(session) and not st.session_state.get(_WORKING):
        st.session_state[_WORKING] = True  # the page was loaded again
        _open(queue, member, _asked_place(places), _asked_kind(member, _asked_place(places)), session).take()
    held = st.session_state.get(parts.DESK)
    if not st.session_state.get(_WORKING) or not isinstance(held, Desk) or held.member.id != member.id:
        _start(queue, member, places, who)
        return
    _write_address(held, who)
    _work()


def _member(queue: ReviewQueue, who: Person) -> Member | None:
    """Who is there, as the queue knows them; None after saying what is missing."""
    if options().read_only:
        show.question(QUESTION, "This dashboard is read only, so nobody can label here.")
        show.empty("Labels need a dashboard that may write.", Command(why="Start one:", line="workbench dashboard"))
        return None
    if who.is_local and not queue.members(_OPERATOR):
        waits = sum(queue.stats(_OPERATOR, place).items.get("open", 0) for place in queue.queues(_OPERATOR))
        told = f"{words.plural(waits, 'text')} {'waits' if waits == 1 else 'wait'}"
        show.question(QUESTION, f"{told}, and nobody reviews in this project yet.")
        st.text(
            f"Start as {words.reveal_line(who.name)}: you will be its first reviewer, and senior. Others are added by"
        )
        st.code(f"{_ADD}NAME", language="bash")
        st.button(
            "Sign in as the first reviewer",
            type="primary",
            shortcut="enter",
            key="first",
            on_click=_join,
            args=(who.name,),
        )
        _say()
        return None
    try:
        return queue.local_member(who.name) if who.is_local else queue.sign_in_as(who.name)
    except ReviewError:
        _stranger(queue, who)
        return None


def _stranger(queue: ReviewQueue, who: Person) -> None:
    """Somebody whom the queue does not know: in local mode they say who they are."""
    name = words.reveal_line(who.name)
    known = [one.name for one in queue.members(_OPERATOR) if one.removed_at is None] if who.is_local else []
    if known:
        show.question(QUESTION, f"No reviewer of this project is called {name}. Who are you?")
        with st.container(horizontal=True):
            for number, one in enumerate(known[:9], 1):
                st.button(escape_markdown(one), shortcut=str(number), key=f"as-{one}", on_click=go_by, args=(one,))
        if len(known) > 9:
            st.text("Others write their name at the side.")
    else:
        show.question(QUESTION, "You are signed in, but no reviewer of this project is known by that name.")
    show.empty(
        "A new reviewer is added by whoever runs this project.", Command(why="At its machine:", line=_ADD + name)
    )


def _join(name: str) -> None:
    try:
        ReviewQueue.open(data.project()).local_member(name)
    except ReviewError as error:
        st.session_state[_SAID] = str(error)


def _say() -> None:
    said = st.session_state.pop(_SAID, None)
    if said:
        st.toast(escape_markdown(said), icon=":material/error:")


# Before and between ---------------------------------------------------------------------------------------------------


def _start(queue: ReviewQueue, member: Member, places: list[str], who: Person) -> None:
    """What waits, and what a person wants to see of it."""
    asked = _asked_place(places)
    place = st.session_state.get("review_place", asked)
    place = place if place in places else asked
    progress = queue.progress(member, place)
    show.question(QUESTION, f"{words.reveal_line(member.name)}: {words.day(progress)}")
    st.text(words.exposure(progress))
    if len(places) > 1:
        st.selectbox("Queue", places, index=places.index(place), key="review_place")
    kinds = _kinds(member, place)
    if not kinds:
        st.info("You may look at this queue, and not label in it: that takes the role reviewer or senior.")
        return
    names = {"opinion": "First opinions", "adjudication": "Settle: opinions differ, sent up, or appealed"}
    if len(kinds) > 1:
        st.radio(
            "Work",
            kinds,
            format_func=lambda kind: names[kind],
            key="review_kind",
            index=kinds.index(_asked_kind(member, place)),
        )
    with st.expander("What you are shown", icon=":material/visibility:"):
        st.toggle(
            "Hide every text until I ask for it",
            key="review_hide",
            help=f"Texts of {' and '.join(progress.severe) or 'no'} severity are always hidden at first.",
        )
        _opt_out(queue, member, place)
    st.button(
        "Start",
        type="primary",
        shortcut="enter",
        key="start",
        icon=":material/play_arrow:",
        on_click=_begin,
        args=(member.id, place, kinds),
    )
    st.caption("A text is yours for ten minutes, longer while you work. Nothing is shown before you start.")
    show.link("queue", "How far people agree, and what waits", ":material/monitoring:", queue=place)
    _say()


def _opt_out(queue: ReviewQueue, member: Member, place: str) -> None:
    known = sorted({*queue.categories(member, place), *member.opt_out})
    if not known:
        return
    st.multiselect(
        "Categories that I am not to be shown",
        known,
        default=list(member.opt_out),
        key="review_opt_out",
        on_change=_set_opt_out,
        args=(member.id,),
        help="Nobody asks why, and no record says so. Others get them.",
    )


def _set_opt_out(member: str) -> None:
    try:
        ReviewQueue.open(data.project()).opt_out(member, st.session_state["review_opt_out"])
    except ReviewError as error:
        st.session_state[_SAID] = str(error)


def _begin(member: str, place: str, kinds: list[Kind]) -> None:
    queue = ReviewQueue.open(data.project())
    kind = st.session_state.get("review_kind", kinds[0])
    desk = _open(queue, queue.member(member), place, kind if kind in kinds else kinds[0], secrets.token_hex(4))
    desk.hide_all = bool(st.session_state.get("review_hide"))
    st.session_state[_WORKING] = True
    desk.take()


def _open(queue: ReviewQueue, member: Member, place: str, kind: Kind, session: str) -> Desk:
    desk = Desk(queue=queue, member=member, place=place, kind=kind, session=session)
    desk.remember()
    st.session_state[parts.DESK] = desk
    return desk


def _kinds(member: Member, place: str) -> list[Kind]:
    roles = member.roles_in(place)
    kinds: list[Kind] = ["opinion"] if roles & {"reviewer", "senior"} else []
    return [*kinds, "adjudication"] if "senior" in roles else kinds


def _asked_place(places: list[str]) -> str:
    asked = st.query_params.get("queue", "")
    return asked if asked in places else places[0]


def _asked_kind(member: Member, place: str) -> Kind:
    kinds = _kinds(member, place)
    return "adjudication" if st.query_params.get("work") == "settle" and "adjudication" in kinds else "opinion"


def _write_address(held: Desk, who: Person) -> None:
    """So that the page can be loaded again."""
    wanted = {"session": held.session, "queue": held.place}
    wanted |= {"work": "settle"} if held.kind == "adjudication" else {}
    wanted |= {"as": who.name} if who.is_local else {}
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


# At work --------------------------------------------------------------------------------------------------------------


@st.fragment
def _work() -> None:
    """One text, its rule, the buttons. Each press draws this part alone."""
    if not st.session_state.get(_WORKING):
        st.rerun()  # stopped: back to the start
    held = parts.desk()
    with st.container(gap="xsmall"):
        st.title(QUESTION, anchor=False)
        st.text(words.day(held.progress()))
        if held.held is not None:
            _item(held, held.held.token)
        else:
            _nothing(held)
            parts.tools(held, None, "none")
        if "help" in held.panels:
            parts.help_panel()
        parts.after(held)
        parts.recent(held)
    parts.dialogs(held)
    for notice in held.notices:
        st.toast(escape_markdown(notice.text), icon=f":material/{_TONES[notice.tone]}:")
    held.notices.clear()
    held.displayed()


def _item(held: Desk, token: str) -> None:
    view = held.view
    assert view is not None
    left, right = st.columns([3, 2])
    with left.container(gap="xsmall"):
        parts.item(held, view)
    with right.container(gap="xsmall"):
        parts.rule(held, view)
    parts.verdicts(held, view, token)
    parts.categories(held, view, token)
    parts.tools(held, view, token)
    _lease(token)


@st.fragment(run_every=parts.LEASE_EVERY_S)
def _lease(token: str) -> None:
    """How long the text is this person's; keeps it while they are there."""
    held = parts.desk()
    if held.held is None or held.held.token != token:
        return
    if not held.renew():
        st.rerun()  # lost to somebody else: say so
    assert held.held is not None
    if held.note:
        show.plain(f"Note: {held.note}")
    left = held.left_s()
    if left <= 0:
        st.text(
            "Your time for this text is over, but nobody else has taken it: your verdict still counts if you are first."
        )
    elif held.is_away:
        st.text(f"Are you still there? In {words.span(left)} this text goes back to the others.")
    else:
        st.text(f"Yours until {words.clock(held.held.lease_until, parts.zone())}, and longer while you work.")
    if left <= 0 or held.is_away:
        parts.press("Keep it", "keep", _keep, token, key="keep", icon=":material/schedule:")


def _keep(token: str) -> None:
    parts.desk().keep(token)


def _nothing(held: Desk) -> None:
    """There is no text at hand: why, and what to do."""
    if held.offer is not None:
        parts.offer(held.offer, _next)
    elif held.lost:
        st.warning("This text is no longer yours, and nothing was written for it.", icon=":material/schedule:")
        st.text(
            "Its time was over and somebody else has it, or it was settled meanwhile. What you labelled before stands."
        )
        st.button("Take the next one", type="primary", shortcut="enter", key="next", on_click=_next)
    elif held.refused:
        st.warning("No text can be given to you now.", icon=":material/block:")
        st.text(held.refused)
        st.button("Try again", shortcut="enter", key="next", on_click=_next)
    elif held.idle is not None:
        _rest(time.monotonic())


@st.fragment(run_every=_IDLE_EVERY_S)
def _rest(_: float) -> None:
    """A break, the end of the budget, or an empty queue; looks now and then whether that has changed."""
    held = parts.desk()
    got = held.idle
    if got is None:
        return
    title, told = words.idle(got)
    with st.container(border=True):
        st.subheader(title, anchor=False)
        st.text(told)
        st.text(got.sentence)
        left = held.until_s(got.until)
        if got.reason == "break" and left <= 0:
            st.text("The break is over. Go on when you are ready.")
        elif got.until is not None and left > 0:
            st.text(f"Until {words.clock(got.until, parts.zone())}: {words.span(left)} left.")
        elif got.reason == "empty" and held.progress().waiting:
            st.text("Something has come in, or is held by others.")
        waits = got.until is not None and left > 0
        label = "Go on" if got.reason == "break" else "Look again"
        st.button(label, type="primary", shortcut="enter", key="next", disabled=waits, on_click=_next)
        if waits:
            st.caption(f"You can stop for today ({KEY['stop']}).")


def _next() -> None:
    parts.desk().take()


if __name__ == "__main__":
    page()

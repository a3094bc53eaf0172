"""How the review page looks: the text, its rule, the buttons, what comes after a label. Draws; decides nothing.

Everything that varies in height lies in a box of fixed height or below the buttons, so a button is always where it was.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import streamlit as st

from dashboards import review_words as words
from dashboards import show
from dashboards.review_session import KEY, Desk, Labelled
from safety.compile import ScreenRule
from safety.review.views import Decision, ItemView
from workbench.publish.text import escape_markdown

BOX = 290
"""Pixels of the boxes that hold the text and its rule."""
LEASE_EVERY_S = 20
DESK = "review_desk"


def desk() -> Desk:
    """The window's desk."""
    found = st.session_state[DESK]
    assert isinstance(found, Desk)
    return found


def zone() -> str | None:
    """The reader's time zone, as the browser says."""
    return st.context.timezone


def press(
    label: str,
    what: str,
    act: Callable[..., None],
    *args: Any,
    key: str,
    disabled: bool = False,
    help: str | None = None,
    icon: str | None = None,
    kind: Literal["primary", "secondary", "tertiary"] = "secondary",
) -> None:
    """A button with its key on it; while something is typed it has none."""
    shortcut = None if desk().asking else KEY.get(what, what)
    st.button(
        label, key=key, on_click=act, args=args, shortcut=shortcut, disabled=disabled, help=help, icon=icon, type=kind
    )


# The text -----------------------------------------------------------------------------------------------------------


def item(held: Desk, view: ItemView) -> None:
    """The text and what belongs to it, as far as it may be seen."""
    with st.container(horizontal=True, gap="small"):
        st.markdown("**Text**", width="content")
        st.text(words.where(view))
    with st.container(height=BOX, border=True):
        if view.hint is not None:
            st.badge("model's view", color="gray", icon=":material/smart_toy:")
            st.text(words.model_says(view.hint, words.in_question(view)))
        if view.text is None:
            st.text(
                "The policy does not let this text be kept. Look it up where it was posted, or say that it cannot be "
                f"judged ({KEY['cannot_judge']}). Item {view.id[:12]}."
            )
        elif held.hidden:
            st.badge(f"{view.severity} severity: hidden", color="orange", icon=":material/visibility_off:")
            st.text(
                f"{len(view.text):,} characters. Press {KEY['reveal']} to see the beginning, or {KEY['skip']} to "
                "leave it to others; you need no reason."
            )
        else:
            _text(held, view)
        if not held.hidden:
            _context(view)


def _text(held: Desk, view: ItemView) -> None:
    if view.prompt:
        st.caption("In answer to")
        show.plain(view.prompt)
        st.caption("Text")
    seen, rest = held.visible()
    show.plain(seen)
    if rest:
        st.caption(f"{rest:,} more characters: press {KEY['reveal']} again")


def _context(view: ItemView) -> None:
    rows = words.context_rows(view.context)
    for name, value in [row for row in rows if row[0] == "appeal"]:
        st.caption(f"Why the decision is under {name}")
        st.text(value)
    rows = [row for row in rows if row[0] != "appeal"]
    if not rows:
        return
    with st.expander("Context", icon=":material/forum:"):
        for name, value in rows:
            st.caption(escape_markdown(name))
            st.text(value)


# Its rule -----------------------------------------------------------------------------------------------------------


def rule(held: Desk, view: ItemView) -> None:
    """The rule in question, or all of them; before it what others said, for whoever settles it."""
    everything = "rules" in held.panels or view.rule is None
    with st.container(horizontal=True, gap="small"):
        st.markdown("**Rules**" if everything else "**Rule in question**", width="content")
        st.text(words.reveal_line(view.policy))
    with st.container(height=BOX, border=True):
        if view.kind == "adjudication":
            _opinions(view)
        if not view.rules:
            st.text("The rule texts of this policy are not in the queue. Its owner puts them there with the items.")
            if view.category:
                show.plain(f"In question: {view.category}")
        for one in view.rules if everything else (view.rule,):
            if one is not None:
                _rule(one)


def _opinions(view: ItemView) -> None:
    st.markdown("**Said so far**")
    if not view.opinions:
        st.text("Nobody has given an opinion; it was sent to a senior.")
    for number, one in enumerate(view.opinions, 1):
        with st.container(gap="xxsmall"):
            st.text(words.opinion(one, number, titles(view)))
            if one.note:
                show.plain(f"“{one.note}”")
    st.divider()


def _rule(one: ScreenRule) -> None:
    st.markdown(f"**{escape_markdown(one.title)}**")
    with st.container(horizontal=True, gap="small"):
        st.badge(f"{one.severity} severity", color="gray")
        if one.key:
            st.badge(f"key {one.key}", color="blue")
    show.plain(one.definition)
    for title, texts in (
        ("Not this", one.not_this),
        ("Violates, for example", one.violates),
        ("Allowed, for example", one.allowed),
    ):
        if texts:
            st.caption(title)
            show.plain("\n".join(f"• {words.reveal_line(text)}" for text in texts))


def titles(view: ItemView) -> Mapping[str, str]:
    """Category -> its title."""
    return {one.category: one.title for one in view.rules}


# The buttons --------------------------------------------------------------------------------------------------------


def verdicts(held: Desk, view: ItemView, token: str) -> None:
    """What can be said of the text: always in the same order at the same place."""
    with st.container(horizontal=True, gap="xsmall", key="verdicts"):
        verdict("Allow", "allowed", token, icon=":material/check_circle:", disabled=held.hidden)
        verdict("Violates", "violates", token, icon=":material/block:", disabled=held.hidden or not view.category)
        verdict("Unsure", "unsure", token, icon=":material/help:", disabled=held.hidden)
        verdict("Cannot judge", "cannot_judge", token, icon=":material/question_mark:", disabled=held.hidden)
        press("Skip", "skip", _skip, token, key=f"skip-{token}", icon=":material/redo:", help="Others will see it.")
        settles = view.kind == "adjudication"
        press(
            "Escalate",
            "escalate",
            _escalate,
            token,
            key=f"escalate-{token}",
            icon=":material/arrow_upward:",
            disabled=settles,
            help="You are the senior here." if settles else "A senior decides instead.",
        )


def verdict(label: str, decision: Decision, token: str, *, icon: str, disabled: bool) -> None:
    """A button that labels the text."""
    press(label, decision, _judge, token, decision, key=f"{decision}-{token}", icon=icon, disabled=disabled)


def categories(held: Desk, view: ItemView, token: str) -> None:
    """Say which rule it breaks: a digit each, several at once from a list."""
    if not view.rules:
        return
    with st.container(horizontal=True, gap="xsmall", key="categories"):
        for one in view.rules:
            if one.key:
                press(
                    escape_markdown(one.title),
                    one.key,
                    _judge,
                    token,
                    "violates",
                    (one.category,),
                    key=f"category-{one.category}-{token}",
                    disabled=held.hidden,
                    help="Violates this rule.",
                )
        press("Several", "several", _ask, "several", key="several", disabled=held.hidden, icon=":material/checklist:")


def tools(held: Desk, view: ItemView | None, token: str) -> None:
    """What does not label."""
    with st.container(horizontal=True, gap="small", key="tools"):
        nothing = view is None
        _, rest = held.visible()
        press(
            "Reveal",
            "reveal",
            _look,
            token,
            key="reveal",
            disabled=nothing or not rest,
            kind="tertiary",
            icon=":material/visibility:",
        )
        press("Note", "note", _ask, "note", key="note", disabled=nothing, kind="tertiary", icon=":material/edit:")
        press(
            "All rules",
            "rules",
            _toggle,
            "rules",
            key="rules",
            disabled=nothing,
            kind="tertiary",
            icon=":material/menu_book:",
        )
        press(
            "Undo",
            "undo",
            _undo,
            key="undo",
            kind="tertiary",
            icon=":material/undo:",
            help="Take your last label back.",
        )
        press(
            "Stop",
            "stop",
            _stop,
            key="stop",
            kind="tertiary",
            icon=":material/logout:",
            help="What you hold goes back; you need no reason.",
        )
        press("Help", "help", _toggle, "help", key="help", kind="tertiary", icon=":material/keyboard:")


@st.dialog("Note", dismissible=False)
def note_dialog() -> None:
    """A note beside the label, or the reason of a skip or an escalation. Enter ends it."""
    held = desk()
    if not held.asking:
        st.rerun()
    st.caption("Kept with your label; seniors see it without your name. Tab goes to the field, Enter ends.")
    st.text_input("Note", held.note, key="note-text", max_chars=4000, on_change=_noted)
    st.button("Done", key="note-done", type="primary", on_click=_noted)


@st.dialog("Which rules does it violate?", dismissible=False)
def several_dialog(view: ItemView, token: str) -> None:
    """Several rules at once, also those beyond the ninth."""
    if not desk().asking:
        st.rerun()
    names = titles(view)
    for one in view.rules:
        st.checkbox(escape_markdown(names[one.category]), key=f"rule-{one.category}")
    chosen = tuple(one.category for one in view.rules if st.session_state.get(f"rule-{one.category}"))
    with st.container(horizontal=True):
        st.button(
            "Label", key="several-done", type="primary", disabled=not chosen, on_click=_several, args=(token, chosen)
        )
        st.button("Leave", key="several-leave", on_click=_leave_dialog)


@st.dialog("Appeal a decision", dismissible=False)
def appeal_dialog(one: Labelled) -> None:
    """Why a senior is to look at it."""
    if not desk().asking:
        st.rerun()
    st.text(words.verdict(one.decision, one.categories, one.category, one.titles))
    st.text_area("Why should a senior look at it again?", key="appeal-text", max_chars=2000)
    with st.container(horizontal=True):
        st.button("Appeal", key="appeal-done", type="primary", on_click=_appeal, args=(one.item,))
        st.button("Leave", key="appeal-leave", on_click=_leave_dialog)


def dialogs(held: Desk) -> None:
    """Whatever is being asked; no key labels meanwhile."""
    view, token = held.view, held.held.token if held.held else ""
    appealed = next((one for one in held.labelled if one.label == held.asking), None)
    if held.asking == "note" and view is not None:
        note_dialog()
    elif held.asking == "several" and view is not None:
        several_dialog(view, token)
    elif appealed is not None:
        appeal_dialog(appealed)


def help_panel() -> None:
    """Every key, in words."""
    with st.container(border=True):
        st.markdown("**Keys**")
        rows = [
            ("allowed", "the text breaks no rule"),
            ("violates", "it breaks the rule in question"),
            ("1 … 9", "it breaks the rule with this number"),
            ("unsure", "the rule does not tell; the policy's owner gets to see that"),
            ("cannot_judge", "something is missing: language, context, the text itself"),
            ("skip", "leave it to others for good; no reason is needed"),
            ("escalate", "let a senior decide"),
            ("reveal", "show a hidden text, then the rest of it"),
            ("undo", "take your last label back (up to ten)"),
            ("several", "several rules at once, or one without a number"),
            ("note", "write a note: Tab to the field, Enter ends it"),
            ("rules", "all rules of the policy, or the one in question"),
            ("similar", "give the near-duplicates of your last label the same verdict"),
            ("keep", "keep the item when its time runs out"),
            ("stop", "end your work; what you hold goes back"),
        ]
        st.table([{"key": KEY.get(what, what), "what it does": told} for what, told in rows])


# After a label ------------------------------------------------------------------------------------------------------


def after(held: Desk) -> None:
    """What became of the last label, and the model's view of it."""
    one = held.last
    if one is None:
        return
    with st.container(border=True, gap="xsmall", key="after"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"Your last label: {words.verdict(one.decision, one.categories, one.category, one.titles)}.")
            if one.model is not None:
                sign, colour = words.agreement_sign(one)
                st.badge(sign, color=colour)
        told = "Others label it too; what the model says stays hidden until they have."
        if one.model is not None:
            told = words.model_says(one.model, one.titles.get(one.category, one.category))
        st.text(f"{words.STATES.get(one.state, '')} {told}")


def offer(one: Labelled, go_on: Callable[[], None]) -> None:
    """Whether near-duplicates get the same verdict without being looked at: asked each time, never assumed."""
    with st.container(border=True):
        st.subheader(f"{words.plural(one.similar, 'near-duplicate')} of this text wait", anchor=False)
        st.text(
            "Nobody has looked at them. They can have your verdict, so that nobody has to; undoing your label takes it "
            "back from all of them. Or they come one by one, as other texts do."
        )
        with st.container(horizontal=True, gap="xsmall"):
            press("Give them the same verdict", "similar", _similar, key="similar", icon=":material/content_copy:")
            press("One by one", "enter", go_on, key="next", kind="primary")


def recent(held: Desk) -> None:
    """The last labels of this window, each to be taken back or appealed."""
    if not held.labelled:
        return
    with st.expander(f"Your last {words.plural(len(held.labelled), 'label')}", icon=":material/history:"):
        for one in held.labelled:
            _recent(one)


def _recent(one: Labelled) -> None:
    with st.container(border=True):
        st.text(words.verdict(one.decision, one.categories, one.category, one.titles))
        st.text(one.start or f"hidden text, item {one.item[:12]}")
        with st.container(horizontal=True):
            st.button("Undo this", key=f"undo-{one.label}", on_click=_undo, args=(one.label,), icon=":material/undo:")
            if one.state == "decided" and one.kind == "opinion":
                st.button(
                    "Appeal", key=f"appeal-{one.label}", on_click=_ask, args=(one.label,), icon=":material/balance:"
                )


# What buttons do: they fetch the desk, so that nothing of a session is held in a button -------------------------------


def _judge(token: str, decision: Decision, chosen: tuple[str, ...] = ()) -> None:
    desk().judge(token, decision, chosen)


def _skip(token: str) -> None:
    desk().skip(token)


def _escalate(token: str) -> None:
    desk().escalate(token)


def _look(token: str) -> None:
    desk().look(token)


def _undo(label: str | None = None) -> None:
    desk().undo(label)


def _similar() -> None:
    desk().apply_to_similar()


def _appeal(held_item: str) -> None:
    desk().appeal(held_item, str(st.session_state.get("appeal-text") or ""))


def _ask(what: str) -> None:
    desk().ask(what)


def _noted() -> None:
    desk().noted(str(st.session_state.get("note-text") or ""))


def _several(token: str, chosen: tuple[str, ...]) -> None:
    desk().asking = ""
    _judge(token, "violates", chosen)


def _leave_dialog() -> None:
    desk().ask("")


def _toggle(panel: str) -> None:
    desk().toggle(panel)


def _stop() -> None:
    desk().stop()
    st.query_params.pop("session", None)
    st.session_state["review_working"] = False

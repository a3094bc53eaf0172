"""Who is at the dashboard and what they may do: a sign-in by OpenID Connect, or a name in local mode.

This hides buttons and pages. What changes labels or decisions is checked again where it is written.
"""

import getpass
from collections.abc import Iterable
from dataclasses import dataclass

import streamlit as st

from dashboards.options import options

ROLES = ("viewer", "reviewer", "senior", "policy_editor", "policy_approver", "ml", "admin", "auditor")
_NAME = "local_name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Somebody at the dashboard."""

    name: str
    """E-mail as the identity provider vouches for it; in local mode what they call themselves."""
    roles: frozenset[str]
    is_local: bool
    """Nobody checked the name."""

    def may(self, roles: Iterable[str]) -> bool:
        """Whether they have one of the roles; no roles asked: everybody may."""
        wanted = frozenset(roles)
        return not wanted or bool(self.roles & wanted) or "admin" in self.roles


def has_sign_in() -> bool:
    """Whether `[auth]` stands in Streamlit's secrets."""
    return st.secrets.load_if_toml_exists() and "auth" in st.secrets


def person() -> Person:
    """Who is there. In a dashboard with a sign-in, a page is only shown to who came through it."""
    from dashboards.data import project

    known = project().config.dashboard_roles
    if has_sign_in():
        name = str(st.user.get("email") or "") if st.user.is_logged_in else ""
        vouched = bool(name) and st.user.get("email_verified") is not False
        return _person(name, known.get(name, ("viewer",)) if vouched else (), is_local=False)
    name = st.session_state.get(_NAME) or _account()
    # Without a list everybody who can reach the page owns the project: it listens on this machine alone.
    return _person(name, known.get(name, ("viewer",)) if known else ROLES, is_local=True)


def sign_in() -> Person | None:
    """Draw who is there into the side bar; None where nobody has come in yet, and the way in is shown instead."""
    if has_sign_in() and not st.user.is_logged_in:
        st.title("Workbench")
        st.text("Sign in to see this project.")
        st.button("Sign in", on_click=st.login, type="primary")
        return None
    if not has_sign_in():
        # A page that is loaded again finds the name in its address: nobody checks it here, and it is shown.
        st.session_state.setdefault(_NAME, st.query_params.get("as", "")[:64] or _account())
        st.session_state[_NAME] = st.session_state[_NAME]  # a widget's state is dropped with the page that showed it
    found = person()
    with st.sidebar:
        if found.is_local:
            st.badge("local mode", color="orange", icon=":material/computer:")
            st.text_input("Your name", key=_NAME, help="Written beside what you do. In local mode nobody checks it.")
        else:
            st.text(found.name)
            st.button("Sign out", on_click=st.logout)
        if options().read_only:
            st.badge("read only", color="gray")
    if not found.roles:
        st.title("Workbench")
        st.text("Your e-mail address is not verified by the identity provider, so nothing can be shown.")
        return None
    return found


def go_by(name: str) -> None:
    """Take a name, in local mode; only from a callback, as the field of the name is drawn before the page."""
    st.session_state[_NAME] = name


def _person(name: str, roles: Iterable[str], *, is_local: bool) -> Person:
    allowed = frozenset(roles)
    if options().read_only:
        allowed &= {"viewer", "auditor"}
    return Person(
        name=name, roles=allowed | ({"viewer"} if allowed or options().read_only else set()), is_local=is_local
    )


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an account for this number
        return "local"

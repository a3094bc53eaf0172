"""A sign-in by OpenID Connect, against a real provider on this machine, in a real browser."""

import secrets
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.dashboards.browsing import WAIT, Visit, serve
from tests.dashboards.identity import CLIENT, SECRET, run_provider
from tests.dashboards.making import make_empty
from workbench.cli.dashboard import _free_port


def test_people_come_in_by_their_provider_with_the_roles_of_the_project_and_go_out_again(
    browser: Browser, tmp_path: Path
) -> None:
    root = make_empty(tmp_path / "p")
    with (root / "workbench.yaml").open("a") as file:
        file.write("\ndashboard_roles: {ada@example.org: [ml]}\n")
    port = _free_port("127.0.0.1")
    with run_provider() as provider:
        (root / ".streamlit").mkdir()
        (root / ".streamlit" / "secrets.toml").write_text(
            f'[auth]\nredirect_uri = "http://127.0.0.1:{port}/oauth2callback"\n'
            f'cookie_secret = "{secrets.token_hex(32)}"\nclient_id = "{CLIENT}"\nclient_secret = "{SECRET}"\n'
            f'server_metadata_url = "{provider.url}/.well-known/openid-configuration"\n'
        )
        with serve(root, port=port) as url:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            window = Visit(context, url)
            page = window.open("")
            side, navigation = page.get_by_test_id("stSidebar"), page.get_by_test_id("stSidebarNav")
            expect(page.get_by_text("Sign in to see this project.")).to_be_visible(timeout=WAIT)
            expect(navigation).to_have_count(0)

            for email, verified, sees in (("ada@example.org", False, False), ("ada@example.org", True, True)):
                provider.email, provider.is_verified = email, verified
                page.get_by_role("button", name="Sign in").click()
                expect(side.get_by_text(email)).to_be_visible(timeout=WAIT)
                if sees:
                    expect(navigation.get_by_role("link", name="Launch")).to_be_visible(timeout=WAIT)
                    expect(page.get_by_text("local mode")).to_have_count(0)
                else:
                    expect(page.get_by_text("Your e-mail address is not verified")).to_be_visible(timeout=WAIT)
                    expect(navigation).to_have_count(0)
                page.get_by_role("button", name="Sign out").click()
                expect(page.get_by_text("Sign in to see this project.")).to_be_visible(timeout=WAIT)

            provider.email = "bob@example.org"  # whom the project does not name: he may look
            page.get_by_role("button", name="Sign in").click()
            expect(side.get_by_text("bob@example.org")).to_be_visible(timeout=WAIT)
            expect(navigation.get_by_role("link", name="Overview")).to_be_visible(timeout=WAIT)
            expect(navigation.get_by_role("link", name="Launch")).to_have_count(0)
            context.close()

"""`workbench new-key`: a key for a tenant of `workbench serve`."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import print_json, print_line, say


def command(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")],
    policy: Annotated[str, typer.Option(help="Name of a shipped policy, or a policy file.")],
    keys: Annotated[
        Path | None, typer.Option(help="Keys file to add the tenant to; without it nothing is written.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make an API key for a tenant, shown once: a keys file holds its digest only.

    Examples:
        workbench new-key acme --policy default --keys keys.yaml
        workbench new-key redteam --policy security-testing
    """
    from workbench.serve.tenants import add_tenant, key_digest, new_key

    key = new_key()
    digest = f"sha256:{key_digest(key)}"
    if keys is not None:
        add_tenant(keys, tenant=tenant, policy=policy, digest=digest)
    if as_json:
        print_json({"tenant": tenant, "key": key, "digest": digest})
        return
    print_line(key)
    say(f"digest for the keys file: {digest}" if keys is None else f"{keys}: {tenant} may ask with it, under {policy}")

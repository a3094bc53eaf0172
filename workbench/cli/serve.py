"""`workbench serve`: a checkpoint behind its policy, as an OpenAI-compatible endpoint."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import print_line, say


def command(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder, GGUF file, hub id, URL#model, or a name the project knows.")
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped policy, or a policy file; with --keys each tenant has its own.",
            rich_help_panel="Policy",
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File of tenants, their keys and policies.", rich_help_panel="Policy")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Another judge for one of the policy's: NAME=classifier, NAME=model:CHECKPOINT.",
            rich_help_panel="Policy",
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, vllm or openai.", rich_help_panel="Model")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel="Model")
    ] = None,
    cache_gb: Annotated[
        float | None, typer.Option(min=0.0, help="Most memory for answers under way, GB.", rich_help_panel="Model")
    ] = None,
    model_args: Annotated[
        str | None, typer.Option(help="More options of the engine: key=value,key=value.", rich_help_panel="Model")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model (default: as it is here).", rich_help_panel="Model")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel="Server")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel="Server")
    ] = 8000,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Largest request, kB.", rich_help_panel="Server")] = 1000,
    grace_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds that answers may go on after a stop.", rich_help_panel="Server")
    ] = 30.0,
    allow_endpoint: Annotated[
        list[str] | None, typer.Option(help="Host that prompts may be sent to.", rich_help_panel="Server")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="Project folder (default: the nearest).", rich_help_panel="Server")
    ] = None,
) -> None:
    """Serve a checkpoint behind its policy as an OpenAI-compatible endpoint, on this machine unless told otherwise.

    Prompts and answers are judged, streamed or not, before anything leaves; each decision is a row of the project's
    audit, and doubts wait for people. Ctrl-C lets answers under way finish.

    Examples:
        workbench serve smollm2 --policy moderation
        workbench serve smollm2 --policy default --judge harm=model:runs/judge/checkpoint-300
        workbench serve runs/shop/checkpoint-300 --keys keys.yaml --port 8080
        workbench serve http://127.0.0.1:8001/v1#small --policy security-testing --engine openai
    """
    from workbench.cli.projects import find_project
    from workbench.config import apply_overrides
    from workbench.errors import ConfigError
    from workbench.serve.server import ServeOptions, build_server, run_server

    if policy is None and keys is None:
        raise ConfigError("serve: no policy; name one with --policy, or tenants with theirs with --keys")
    extra = apply_overrides({}, [part for part in (model_args or "").split(",") if part.strip()])
    extra |= {key: value for key, value in (("dtype", dtype), ("cache_gb", cache_gb)) if value is not None}
    options = ServeOptions(
        checkpoint=checkpoint,
        policy=policy,
        keys=keys,
        judges=tuple(judge or ()),
        engine=engine,
        name=name,
        host=host,
        port=port,
        max_bytes=max_body_kb * 1000,
        grace_s=grace_s,
        allowed=tuple(allow_endpoint or ()),
        engine_options=extra,
    )
    with find_project(project, create=True) as home:
        built = build_server(options, home)
        for note in built.notes:
            say(f"note: {note}")
        for tenant, own in built.policies.items():
            say(f"{tenant}: {own}")

        def on_ready(url: str) -> None:
            say(f"{built.model} by {built.engine}; Ctrl-C stops")
            print_line(url)

        run_server(built, options, on_ready=on_ready)

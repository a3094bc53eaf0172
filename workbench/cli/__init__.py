"""The `workbench` command: which commands there are. Knows their names and one-line purposes; imports none of them.

A command is a plain function with Typer options in a module of its own; a row of `COMMANDS` names it. Only the module
of the command that is called is imported, so `workbench --help` costs no more than Python and Typer.
"""

import sys
from collections.abc import Sequence

from workbench.cli.lazy import Command, Group, LazyGroup

COMMANDS = {
    "init": Command("workbench.cli.init:command", "Start a project folder with its store and workbench.yaml."),
    "train": Command("workbench.cli.train:command", "Train by a recipe, evaluate what came of it, decide."),
    "mix": Group(
        "Plan how much general data to blend in.",
        {"plan": Command("workbench.cli.mix:plan", "Try shares of replay in short runs, and choose one.")},
    ),
    "runs": Command("workbench.cli.runs:command", "List training runs, or show how one went."),
    "verify-resume": Command("workbench.cli.verify_resume:command", "Kill a run and see whether it goes on as it was."),
    "recipes": Command("workbench.cli.recipes:command", "List recipes to start from, or print one."),
    "merge": Command("workbench.cli.merge:command", "Average a start and what was tuned from it; sweep the averages."),
    "advise": Command("workbench.cli.advise:command", "Say which stage fits some data, by short probes."),
    "data": Group(
        "See what a run is fed, and which models saw a row.",
        {
            "inspect": Command("workbench.cli.data:inspect", "Show a recipe's mix, with samples and the loss mask."),
            "replay": Command("workbench.cli.data:replay", "Let a checkpoint write its own replay."),
            "trace": Command("workbench.cli.data:trace", "Say which rows a step saw, and which models saw a row."),
        },
    ),
    "reward": Group(
        "Try rewards out before a run is spent on them.",
        {
            "ls": Command("workbench.cli.reward:ls", "List the kinds of reward."),
            "test": Command("workbench.cli.reward:test", "Score recorded answers: distribution, ties, smells."),
        },
    ),
    "eval": Command("workbench.cli.eval:command", "Evaluate checkpoints on suites and tasks, with error bars."),
    "assess": Command("workbench.cli.assess:command", "Assess checkpoints under a policy: both kinds of error."),
    "improve": Command("workbench.cli.improve:command", "Train on the labels of a review queue, and say if it helped."),
    "moderate": Command("workbench.cli.moderate:command", "Judge posts by a policy and their communities' rules."),
    "judge": Group(
        "Train judges from people's labels, and measure how far they agree.",
        {
            "ls": Command("workbench.cli.judge:ls", "List shipped judges with their measured agreement."),
            "train": Command("workbench.cli.judge:train", "Train a judge from people's labels."),
            "audit": Command("workbench.cli.judge:audit", "Measure a judge against people's labels."),
        },
    ),
    "import": Command("workbench.cli.import_:command", "Import runs of lm-eval and Inspect as reports."),
    "plan": Command("workbench.cli.plan:command", "Say before a run what it can certify, and in which time."),
    "compare": Command("workbench.cli.compare:command", "Say what candidates kept, gained and forgot."),
    "gate": Command("workbench.cli.gate:command", "Decide whether a checkpoint may ship, by exit code."),
    "serve": Command("workbench.cli.serve:command", "Serve a checkpoint behind its policy, as OpenAI's API."),
    "new-key": Command("workbench.cli.new_key:command", "Make an API key for a tenant of the server."),
    "show": Command("workbench.cli.show:command", "Show a report, a checkpoint or the items behind a number."),
    "ls": Command("workbench.cli.ls:command", "List tasks, suites, checkpoints and reports."),
    "task": Group(
        "Make and check domain MMLU variants from question files.",
        {
            "new": Command("workbench.cli.task:new", "Turn a CSV, JSONL or Parquet of questions into a task group."),
            "check": Command("workbench.cli.task:check", "Measure contamination, position bias and other faults."),
        },
    ),
    "policy": Group(
        "Check, explain, compare and replay what a business permits and withholds.",
        {
            "ls": Command("workbench.cli.policy:ls", "List the policies that can be named."),
            "check": Command("workbench.cli.policy:check", "Say what is wrong with a policy and its test rows."),
            "test": Command("workbench.cli.policy_test:command", "Put a policy's test rows to its judges."),
            "calibrate": Command("workbench.cli.policy_calibrate:command", "Turn people's labels into thresholds."),
            "show": Command("workbench.cli.policy:show", "Show what a policy does about each category."),
            "explain": Command("workbench.cli.policy:explain", "Say which file and line set a value."),
            "diff": Command("workbench.cli.policy:diff", "List what differs between two policies."),
            "replay": Command("workbench.cli.policy:replay", "Decide past items again under a changed policy."),
        },
    ),
    "dashboard": Command(
        "workbench.cli.dashboard:command", "Show the project in a browser, and start runs from there."
    ),
    "review": Group(
        "Put texts before people, and keep what they say.",
        {
            "add": Command("workbench.cli.review:add", "Put texts into the review queue."),
            "open": Command("workbench.cli.dashboard:review_command", "Open the page on which people label."),
            "status": Command("workbench.cli.review:status", "Show what waits, is in work and is decided."),
            "ls": Command("workbench.cli.review:ls", "List items with their state, without their texts."),
            "verify": Command("workbench.cli.review:verify", "Check the audit, its anchors and the queue's laws."),
            "agreement": Command("workbench.cli.review:agreement", "Show how far reviewers agree."),
            "calibrate": Command("workbench.cli.review_truth:calibrate", "Fit a model's probabilities to the labels."),
            "triage": Command("workbench.cli.review_truth:triage", "Say what a model may clear alone, and how surely."),
            "drift": Command("workbench.cli.review_drift:drift", "Look for what is new in a stream."),
            "alarms": Command("workbench.cli.review_drift:alarms", "List alarms, and minutes to an enforced rule."),
            "estimate": Command("workbench.cli.review_truth:estimate", "Say what was missed in the whole stream."),
            "serve": Command("workbench.cli.review:serve", "Serve the queue's HTTP API."),
            "export": Command("workbench.cli.review_exchange:export", "Write labels for Argilla or Label Studio."),
            "import": Command("workbench.cli.review_exchange:import_", "Read texts of Argilla or Label Studio."),
            "members": Group(
                "Say who may label, settle, grant and read.",
                {
                    "add": Command("workbench.cli.review:members_add", "Add a member, or give one more roles."),
                    "ls": Command("workbench.cli.review:members_ls", "List members with their roles."),
                    "remove": Command("workbench.cli.review:members_remove", "Take roles from a member."),
                },
            ),
        },
    ),
    "fetch": Command("workbench.cli.fetch:command", "Get a small real model ready, with a model hub or without."),
    "doctor": Command("workbench.cli.doctor:command", "Say what this machine can do, and what cures the rest."),
    "backup": Command("workbench.cli.backup:backup", "Back a project up while everybody goes on working."),
    "restore": Command("workbench.cli.backup:restore", "Put a backup back, after every byte was verified."),
    "gc": Command("workbench.cli.gc:command", "Let go of weights that nothing needs, by policy."),
    "demo": Command("workbench.cli.demo:command", "Evaluate a real small model and two copies; decide which may ship."),
}

PURPOSE = """Train a model, evaluate it with error bars, and decide whether the checkpoint may ship.

Examples:
    workbench eval smollm2 --suite sample-domain --suite sample-general
    workbench gate latest --baseline smollm2
    workbench train recipe.yaml --dry-run
"""


def build_cli() -> LazyGroup:
    """The root command. Cheap: nothing of a command is imported before it is called."""
    return LazyGroup("workbench", PURPOSE, COMMANDS, root=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Leaves by SystemExit with the exit codes of `workbench.cli.lazy`."""
    args = list(sys.argv[1:] if argv is None else argv)
    options = args[: args.index("--")] if "--" in args else args
    if "--debug" in options:  # people add it at the end of the line that failed
        args.remove("--debug")
        args.insert(0, "--debug")
    build_cli().main(args=args, prog_name="workbench")

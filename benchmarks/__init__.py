"""What is measured, on top of lm-eval: tasks, suites, runner, contamination."""

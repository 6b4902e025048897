"""The checks of a preflight: functions of a :class:`limbeck.run.checks.bench.Bench` that say what they measured."""

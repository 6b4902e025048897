"""What the commands are for, in a word and in examples. Imports nothing: the help is instant."""

from __future__ import annotations

__all__ = ["COMMANDS", "EXAMPLES", "overview"]

COMMANDS = {
    "run": "distil a teacher into a student, with its control and a report",
    "resume": "go on with a run that was stopped or killed",
    "preflight": "look for silent failures before a run, in seconds",
    "capture": "keep what a language model says about a text, so that it need not run again",
    "methods": "list the methods and what their evidence says",
    "show": "say all about one method",
    "report": "write a run's report again",
    "compare": "set several runs side by side",
    "evidence": "check the claim of a method on real data",
    "doctor": "look at this machine: versions, devices, extras",
}
EXAMPLES = {
    "run": """  limbeck run kd --teacher runs/big/student --student cnn-8-16 --data digits --out runs/kd
  limbeck run kd --teacher resnet56@resnet56.safetensors --student resnet8 --data images/ --method.tau 2 --epochs 20
  limbeck run --config runs/kd/run.yaml --seeds 5 --out runs/kd-5     a run file; flags override it
  limbeck run gkd --teacher smol/ --student layers-10@smol/ --data train.txt,test.txt --method.lmbda 0
  limbeck run kd --help                                               with the flags of that method""",
    "resume": "  limbeck resume runs/kd",
    "preflight": "  limbeck preflight kd --teacher runs/big/student --student cnn-8-16 --data digits",
    "capture": "  limbeck capture --teacher HuggingFaceTB/SmolLM2-135M --data train.txt,test.txt --no-pack --out store"
    "\n"
    "  limbeck run gkd --teacher store:store --student layers-10@HuggingFaceTB/SmolLM2-135M --data train.txt,test.txt",
    "methods": "  limbeck methods\n  limbeck methods --grep ensemble\n  limbeck methods --family classification --json",
    "show": "  limbeck show kd",
    "report": "  limbeck report runs/kd",
    "compare": "  limbeck compare runs/kd runs/rkd --out compare.html",
    "evidence": "  limbeck evidence kd --seeds 5 --first-seed 100\n  limbeck evidence kd --data my_images.npz --json\n"
    "  limbeck evidence all",
    "doctor": "  limbeck doctor",
}


def overview() -> str:
    """The help of the whole."""
    commands = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    return (
        "usage: limbeck COMMAND ...\n\nDistillation of models, with a preflight, a control and a report.\n\n"
        f"commands:\n{commands}\n\nexamples:\n{EXAMPLES['run']}\n\n`limbeck COMMAND --help` says more."
    )

"""``python -m limbeck``, which is what ``accelerate launch -m limbeck run ...`` needs."""

from limbeck.cli import main

raise SystemExit(main())

"""Early exits: every kind of stage becomes logits, tokens are merged to about 7 x 7."""

import torch

from limbeck.models.exits import TokenBranch, branch, map_branch


def test_branches_fit_every_kind_of_stage() -> None:
    wide = map_branch((3, 32, 32), 10, 3, 6)
    assert wide(torch.zeros(1, 3, 32, 32)).shape == (1, 6)
    assert map_branch((3, 2, 2), 10, 3, 6)(torch.zeros(1, 3, 2, 2)).shape == (1, 6)
    for tokens, merged in ((197, 49), (196, 49), (65, 64), (10, 9), (12, 12)):
        made = TokenBranch((tokens, 8), 1, 6).eval()
        seen: list[int] = []
        made.blocks.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1]))
        x = torch.randn(2, tokens, 8)
        assert made(x).shape == (2, 6)
        assert seen == [merged + made.first]
    token = TokenBranch((5, 8), 1, 6)
    assert token.first == 1, "2 x 2 patches and a class token"
    assert branch((9,), 4, 2, 6)(torch.zeros(2, 9)).shape == (2, 6)

"""K replicas at once against K runs in turn, in fcjax and in PyTorch.

    python -m benchmarks.replicas [--counts 1 4 16 64] [--model A4] [--batch-size 128] [--samples 10000] [--rounds 3]

One program trains K networks (``vmap`` inside ``pmap``); in turn, the program of one network runs K times. PyTorch's
side is ``torch.func.vmap`` over the gradient with Adam written out, and its own loop K times.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.contenders import RATE, Work, a3, a4, fcjax_turn, torch_loops
from benchmarks.rounds import Row, Turn, machine, missing, options, ratio, save, take_turns

__all__ = ["main", "torch_replicas"]


def in_turn(turn: Turn, count: int) -> Turn:
    """``turn``, ``count`` times."""
    return lambda: [turn() for _ in range(count)][-1]


def torch_replicas(work: Work, batch_size: int, count: int) -> Turn:
    """``count`` networks in one vectorised step: each has its own order and masks.

    Raises:
        ImportError: torch is not installed.
    """
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = ((torch.from_numpy(work.inputs).float() - work.mean) / work.std).to(device)
    y = torch.from_numpy(work.targets).to(device)
    y = y.long() if work.classifies else y
    models = [work.torch_model().to(device).train() for _ in range(count)]
    parameters, buffers = stack_module_state(models)
    criterion: Callable[..., Any] = torch.nn.functional.nll_loss if work.classifies else torch.nn.functional.mse_loss
    model = models[0]

    def loss(parameters: Any, buffers: Any, inputs: Any, targets: Any) -> Any:
        return criterion(functional_call(model, (parameters, buffers), (inputs,)), targets)

    step = vmap(grad_and_value(loss), randomness="different")
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    taken = 0

    @torch.no_grad()
    def adam(gradients: Any) -> None:
        for name, parameter in parameters.items():
            first[name].lerp_(gradients[name], 0.1)
            second[name].mul_(0.999).addcmul_(gradients[name], gradients[name], value=0.001)
            root = (second[name] / (1 - 0.999**taken)).sqrt_().add_(1e-8)
            parameter.addcdiv_(first[name], root, value=-RATE / (1 - 0.9**taken))

    def turn() -> float:
        nonlocal taken
        losses = []
        orders = torch.stack([torch.randperm(len(x), device=device) for _ in range(count)])
        for rows in orders.split(batch_size, dim=1):
            taken += 1
            gradients, values = step(parameters, buffers, x[rows], y[rows])
            adam(gradients)
            losses.append(values.mean())
        return float(torch.stack(losses).mean())

    return turn


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = options(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--model", default="A4", choices=["A3", "A4"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    print(machine())
    work = {"A3": a3, "A4": a4}[chosen.model](chosen.samples)
    single = fcjax_turn(work, chosen.batch_size)
    for count in chosen.counts:
        turns = {
            "fcjax, at once": fcjax_turn(work, chosen.batch_size, replicas=count),
            "fcjax, in turn": in_turn(single, count),
        }
        try:
            turns["torch.func.vmap, at once"] = torch_replicas(work, chosen.batch_size, count)
            eager = torch_loops(work, chosen.batch_size, compiled=False)["torch, resident, fused Adam"]
            turns["torch, in turn"] = in_turn(eager, count)
        except ImportError as error:
            missing("PyTorch", error)
        measured = take_turns(turns, chosen.rounds)
        ours = measured["fcjax, at once"]
        rows: list[Row] = []
        print(f"  {work.name}, K = {count}", flush=True)
        for name, found in measured.items():
            rate = count * len(work.inputs) / found.median
            print(
                f"    {name:26}{found.median:8.2f} s {rate:12,.0f} samples/s, {ratio(ours, found):6.2f} times ours at "
                f"once, loss {found.figure:.3f}",
                flush=True,
            )
            rows.append(
                {
                    "model": work.name,
                    "batch_size": chosen.batch_size,
                    "replicas": count,
                    "contender": name,
                    "seconds": found.median,
                    "samples_per_second": rate,
                    "times_ours": ratio(ours, found),
                    "loss": found.figure,
                }
            )
        save(chosen.json, "replicas", rows)


if __name__ == "__main__":
    main()

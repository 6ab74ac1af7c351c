"""Make one result: ``python -m cogvsr_utils.pipeline network_probe --model nano-internvl``."""

import logging

import typer

from cogvsr_utils.models.weights import find_weights
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.plan import RESULTS


def main(
    name: str = typer.Argument(help="a result, such as network_probe or answers-C"),
    model: str = typer.Option("nano-internvl", help="a nano name, a folder or a hub id"),
    quantize: str = typer.Option("", help='"", "4bit" or "8bit"'),
    profile: str = typer.Option("light", help='"light" or "full"'),
    source: str = typer.Option("synth", help='"synth" or the path of a CogVSR .jsonl file'),
) -> None:
    """Make the result NAME and what it needs, unless valid ones are kept."""
    if name not in RESULTS:
        raise typer.BadParameter(f"no result {name!r}; there are {', '.join(sorted(RESULTS))}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        experiment = Experiment(model, quantize, profile, source)
        find_weights(model)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    RESULTS[name](experiment)
    typer.echo(RESULTS[name].data_path(experiment))


if __name__ == "__main__":
    typer.run(main)

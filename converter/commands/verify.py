"""`kexport verify ARTIFACT SOURCE` and `kexport verify ARTIFACT --replay`."""

from __future__ import annotations

from pathlib import Path

import click

HELP = """Compare an artifact with its original again, or replay its certificate without the original.

With SOURCE the original runs here, and the certificate in the manifest is renewed. With --replay the recorded prompts run on this
machine, without Keras, and the recorded tokens must come out. Every file is hashed first."""


@click.command(help=HELP)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("source", required=False)
@click.option("--replay", is_flag=True, help="Replay the recorded cases; needs no Keras.")
@click.option("--verify", "depth", metavar="full|stream", default=None, help="How deep to compare with SOURCE [default: by available memory].")
@click.option("--lora", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="The adapter that the artifact was made with; of several each, in any order.")
@click.option("--report", hidden=True)
@click.option("--trust-source", is_flag=True, help="Run code that SOURCE brings along. Only for sources you trust.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    artifact: Path,
    source: str | None,
    replay: bool,
    depth: str | None,
    lora: tuple[Path, ...],
    report: str | None,
    trust_source: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from kexport.runtime.contract.errors import UnsupportedError, UsageError

    if report is not None:
        raise UnsupportedError("KX206", "`--report` is not built yet", hint="use --json")
    if (source is None) == (not replay):
        raise UsageError("KX106", "give either SOURCE or --replay", hint="kexport verify ARTIFACT SOURCE, or kexport verify ARTIFACT --replay")
    from kexport.converter.console import print_json
    from kexport.converter.report import certificate_document, print_certificate
    from kexport.converter.verification import replay_artifact, verify_artifact
    from kexport.runtime.contract.progress import reporter_for

    reporter = reporter_for(quiet=quiet)
    certificate = (
        replay_artifact(artifact, reporter)
        if source is None
        else verify_artifact(artifact, source, depth, trust_source=trust_source, reporter=reporter, lora=lora)
    )
    if as_json:
        print_json(certificate_document(certificate))
    else:
        print_certificate(certificate)

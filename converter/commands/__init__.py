"""One command a file: `kexport NAME` is the `click.Command` called `command` in `converter/commands/NAME.py`.

A new command is a new file; nothing lists them. A command file is a parser: at module level it imports click and the leaf rooms only, and
its stage inside the function, so that `kexport --help` needs no numpy, no engine and no Keras. `--version` and `--debug` are added
to every command by `converter/cli.py`. Files whose name starts with an underscore are no commands.

    @click.command("greet", short_help="Greet someone.")
    @click.argument("name")
    @json_option
    def command(name: str, as_json: bool) -> None:
        \"\"\"Greet NAME.\"\"\"
        from kexport.converter.greeting import greet   # the stage: imported here, not above
        ...
"""

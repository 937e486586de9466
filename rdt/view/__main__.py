"""The command `rdt view`: plain arguments, so that help and errors need no slow import."""

import sys
import webbrowser
from pathlib import Path

from rdt.config.keys import command, parsed_keys

USAGE = """usage: rdt view <dir> [port=0] [browser=true|false]

  <dir>    a run folder, or a folder that holds runs at any depth; it may be empty yet; runs=<dir> is the same
  port     of the page on this machine alone, 127.0.0.1; 0 takes a free one
  browser  whether to open the page; the address is printed in any case

The page lists all runs and follows them while they train. Ctrl-C ends it."""
KEYS = {"runs": "", "port": "0", "browser": "true"}
FLAGS = {"true": True, "false": False}


def entry(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 1 after one line on stderr."""
    return command(USAGE, _view, argv)


def _view(arguments: list[str]) -> None:
    words = [f"runs={word}" if "=" not in word or Path(word).expanduser().is_dir() else word for word in arguments]
    given = parsed_keys(words, KEYS)
    root = Path(given["runs"]).expanduser()
    if not given["runs"] or not root.is_dir():
        raise ValueError(f"runs={given['runs']} is not a folder; name one that holds runs: rdt view <dir>")
    if given["browser"] not in FLAGS:
        raise ValueError(f"browser={given['browser']}; want true or false")
    if not (given["port"].isascii() and given["port"].isdigit() and int(given["port"]) < 65536):
        raise ValueError(f"port={given['port']}; want a number from 0 to 65535")
    serve(root, int(given["port"]), FLAGS[given["browser"]])


def serve(root: Path, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C; ValueError if the port is taken."""
    from rdt.view.server import ViewServer

    try:
        server = ViewServer(root, port)
    except OSError as error:
        raise ValueError(f"port={port} cannot be opened: {error.strerror}; port=0 takes a free one") from None
    print(f"view     {server.address}", flush=True)
    if browser:
        webbrowser.open(server.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended", flush=True)
    finally:
        server.server_close()


if __name__ == "__main__":
    sys.exit(entry())

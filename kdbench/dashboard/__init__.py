"""`kdbench dashboard`: Optuna's dashboard on a study, with our figures, notes and files.

page -> guard (who may ask) -> answers (what we answer) -> optuna-dashboard -> view -> picture

The dashboard reads a view and not the search's database: a picture in memory, made of the database
and the trial folders and made again when they change. So looking can change nothing that a search
depends on, and constraints, which optuna-dashboard 0.21 looks for where Optuna 4 kept them, can be
written for it a second time without a line in the database.
"""

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

from optuna_dashboard import wsgi

from kdbench.dashboard.answers import Answers, may_write
from kdbench.dashboard.artifacts import NoShelf
from kdbench.dashboard.guard import Guard
from kdbench.dashboard.notebook import Notebook
from kdbench.dashboard.server import LOOPBACK, listen, where
from kdbench.dashboard.source import STUDY_PAGE, Source
from kdbench.dashboard.view import View
from kdbench.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the dashboard is, and what may be done there.

    Attributes:
        port: 0 for any that is free.
        exposed: Others may reach it, and the user knows what that means.
        write: Notes may be written.
        open_page: Show it in the user's browser.
    """

    port: int
    host: str = LOOPBACK
    exposed: bool = False
    write: bool = False
    open_page: bool = False


def serve(store: Store, study: str, url: str, door: Door, on_ready: Callable[[str], None]) -> None:
    """Shows a study until it is interrupted.

    Args:
        store: Where its folders are.
        study: Its name.
        url: Of its database.
        door: Where to listen.
        on_ready: Told the address of the page, once it can be opened.

    Raises:
        StoreError: No such study, or its database does not answer.
        KdbenchError: The address is not ours to listen at, or the study's trials do not compare.
        KeyboardInterrupt: Somebody has seen enough.
    """
    family, address = where(door.host, door.port, exposed=door.exposed)
    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # the page says it, too
    notebook = Notebook(store, study)
    source = Source(store, study, url, notebook)
    view = View(source.stamp, source.picture)
    answers = Answers(wsgi(view, artifact_store=NoShelf()), view, notebook)
    guard = Guard(answers, _names(door.host), *([may_write] if door.write else []))
    with listen(family, address, guard) as server:
        page = server.origin + STUDY_PAGE
        try:
            on_ready(page)
            if door.open_page:  # beside us: a browser in the terminal comes back when it is closed
                threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the study is as it was") from None


def _names(host: str) -> set[str]:
    """By which a browser may ask, beside addresses."""
    ours = {"localhost", host}
    return ours if host in (LOOPBACK, "localhost", "::1") else ours | {socket.gethostname()}

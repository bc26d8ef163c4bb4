"""The HTTP service of `zoo-runtime serve`, which needs the extra `serve`.

- `app` has the paths, and connects the other modules; `server` runs it until a signal comes.
- `models` opens exported files, and takes up new ones. `workers` runs them in threads, behind a bounded queue.
- `edge` and `access` stand before every path: log, metrics, errors; host, origin and token.
- `body` reads what a client sends, within limits; `answers` and `inference` turn it into JSON, in zoo's form and in
  that of the Open Inference Protocol.
- `page` holds the files of the page at `/`.

Nothing here is imported by the rest of zoo_runtime, except by the command.
"""

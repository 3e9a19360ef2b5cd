"""The command ``nano4m tokenizer-report``."""

import json

from nano4m.progress import log_info
from nano4m.stage import writable
from nano4m.storage.json_files import write_json
from nano4m.storage.lock import owned
from nano4m.tokenizer_report.compare import compare
from nano4m.tokenizer_report.console import as_text
from nano4m.tokenizer_report.options import Options
from nano4m.tokenizer_report.page import write_page


def run_command(options: Options) -> str:
    """Compare, write ``index.html`` and ``report.json`` into the folder, and return what to print.

    Raises:
        UserError: No such clips, tokenizers or run, or a folder that cannot be written.
    """
    with writable(options.dir):
        options.dir.mkdir(parents=True, exist_ok=True)
        with owned(options.dir):
            comparison = compare(options)
            write_json(options.dir / "report.json", comparison.report)
            page = write_page(comparison, options.dir)
    log_info(f"tokenizer-report: {page.resolve()}")
    if options.json:
        return json.dumps(comparison.report, indent=1)
    return as_text(comparison.report)

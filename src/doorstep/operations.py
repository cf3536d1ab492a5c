"""The table of operations. REST, OpenAPI, the SDK's test, permissions and the console read it."""

from __future__ import annotations

from doorstep.core.operation import Operation, tabulate
from doorstep.explain import operations as explain
from doorstep.govern import history, proving, tokens
from doorstep.govern import operations as govern
from doorstep.journal import holding, importing, personal, telling
from doorstep.journal import operations as journal
from doorstep.monitor import operations as monitor
from doorstep.register import actions as register
from doorstep.release import catalogue, differences
from doorstep.release import operations as release


def table() -> dict[str, Operation]:
    """Every operation by name, in the order of the journey."""
    return tabulate(
        (
            catalogue.diff_service,
            register.apply_service,
            register.find_missing,
            catalogue.list_services,
            catalogue.show_service,
            catalogue.register_version,
            catalogue.watch_version,
            catalogue.show_version,
            catalogue.list_versions,
            catalogue.run_gates,
            catalogue.show_gates,
            release.approve_version,
            release.withdraw_approval,
            release.approve_revision,
            release.start_release,
            release.estimate_release,
            release.show_release,
            release.recompute_release,
            release.list_releases,
            differences.show_differences,
            release.pause_release,
            release.resume_release,
            release.promote_release,
            release.roll_back,
            release.kill_version,
            release.revive_version,
            journal.show_prediction,
            journal.list_predictions,
            journal.query_journal,
            telling.record_outcomes,
            telling.show_mark,
            telling.keep_mark,
            personal.open_prediction,
            personal.erase_subject,
            holding.hold_subject,
            importing.import_rows,
            journal.count_traffic,
            explain.explain_prediction,
            monitor.show_status,
            monitor.show_monitor,
            monitor.list_findings,
            govern.list_events,
            govern.verify,
            proving.prove_prediction,
            history.show_history,
            govern.show_installation,
            tokens.create_token,
            tokens.list_tokens,
            tokens.revoke_token,
        )
    )

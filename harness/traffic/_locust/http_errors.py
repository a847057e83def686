"""How long a server that refuses a request asks to wait."""

from email.utils import parsedate_to_datetime

from harness.core.clock import wall_now


def retry_after_s(headers: dict[str, str]) -> float | None:
    """Seconds to wait: `retry-after-ms`, else `retry-after` in seconds or as a date; None without a
    usable one.
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
    except ValueError:
        pass  # an unusable retry-after-ms leaves retry-after
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass  # then it is a date
    try:
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else wall_now()
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None

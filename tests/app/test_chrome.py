"""A missing browser: a reason to skip, or to fail where one is required."""

import chrome
import pytest


@pytest.mark.parametrize(("options", "outcome"), [("", pytest.skip.Exception), ("required", pytest.fail.Exception)])
def test_a_missing_browser_skips_or_fails_and_says_why(monkeypatch, options, outcome):
    monkeypatch.setattr(chrome, "CHROMIUM", None)
    monkeypatch.setenv("GCL_BROWSER", options)
    with pytest.raises(outcome, match="chromium missing; pip install"):
        chrome.needed()

from datetime import UTC, datetime

import pytest

from deployments.settings_file.problems import SettingsFileError
from deployments.tenants.key_file import hash_of, parse_keys

HASH = hash_of(b"secret")


def problems(text: str) -> str:
    with pytest.raises(SettingsFileError) as caught:
        parse_keys(text, "keys.yaml")
    return "\n".join(caught.value.lines())


def test_each_key_has_its_tenant() -> None:
    holders = parse_keys(
        f"""
        tenants:
          - name: search
            keys:
              - {{sha256: {HASH}}}
              - {{sha256: {HASH[::-1].upper()}, expires: 2027-06-30}}
            models: [demo]
            scopes: [generate]
            priority: {{most_urgent: 0}}
          - {{name: nobody-yet}}
        """,
        "keys.yaml",
    )
    assert {key: holder.tenant.name for key, holder in holders.items()} == {HASH: "search", HASH[::-1]: "search"}
    tenant = holders[HASH].tenant
    assert tenant.may_use(["demo", "alias"]) and not tenant.may_use(["other"]) and not tenant.is_admin
    assert (tenant.priority.most_urgent, tenant.priority.least_urgent) == (0, 100)


@pytest.mark.parametrize(
    ("expires", "last", "first_after"),
    [
        ("2027-06-30", datetime(2027, 6, 30, 23, 59, 59, tzinfo=UTC), datetime(2027, 7, 1, tzinfo=UTC)),
        ("2027-06-30T12:00:00Z", datetime(2027, 6, 30, 12, tzinfo=UTC), datetime(2027, 6, 30, 12, 0, 1, tzinfo=UTC)),
        ("2027-06-30T12:00:00", datetime(2027, 6, 30, 12, tzinfo=UTC), datetime(2027, 6, 30, 12, 0, 1, tzinfo=UTC)),
        (
            "2027-06-30T12:00:00+02:00",
            datetime(2027, 6, 30, 10, tzinfo=UTC),
            datetime(2027, 6, 30, 10, 0, 1, tzinfo=UTC),
        ),
    ],
)
def test_a_key_is_good_until_the_end_of_its_day_or_its_moment(
    expires: str, last: datetime, first_after: datetime
) -> None:
    text = f"tenants: [{{name: a, keys: [{{sha256: {HASH}, expires: {expires!r}}}]}}]"
    holder = parse_keys(text, "keys.yaml")[HASH]
    assert not holder.key.is_expired(last)
    assert holder.key.is_expired(first_after)


def test_what_is_wrong_is_said_at_once_with_its_lines() -> None:
    said = problems(
        """tenants:
  - name: a b
    keys:
      - {sha256: secret}
      - {sha256: HASH, expires: soon}
    scope: [generate]
  - name: c
    scopes: [generate, everything]
    priority: {most_urgent: 5, least_urgent: 1}
    max_n: 0
""".replace("HASH", HASH)
    ).splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"keys.yaml:{number}" for number in (2, 4, 5, 6, 8, 9, 10)]
    assert "`penstock keys new` makes both" in said[1]
    assert "a day such as 2027-06-30" in said[2]
    assert "did you mean scopes?" in said[3]
    assert "must be one of generate, embed, admin, not 'everything'" in said[4]
    assert "lower is served first" in said[5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs `tenants:`"),
        ("tenants: []", "at least 1"),
        ("tenants: [{name: a}, {name: a}]", "two tenants are called 'a'"),
        (
            f"tenants: [{{name: a, keys: [{{sha256: {HASH}}}]}}, {{name: b, keys: [{{sha256: {HASH}}}]}}]",
            "b has a key that a has, too",
        ),
        ("tenants: [{name: a, name: b}]", "twice"),
        ("keys: [secret]", "no such key"),
        ("{", "no YAML"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    assert said in problems(text)

from datetime import date

import pytest

from deployments.settings_file.problems import SettingsFileError
from deployments.tenants.key_entries import entry, new_key, without_key
from deployments.tenants.key_file import hash_of, parse_keys

FIRST, SECOND = hash_of(b"first"), hash_of(b"second")

LAYOUTS = {
    "flow items": """# who may ask
tenants:
  - name: a  # a team
    keys:
      - {sha256: FIRST}  # the old one
      - {sha256: SECOND, expires: 2027-01-01}
    scopes: [generate]
  - name: b
""",
    "block items": """tenants:
- keys:
  - sha256: FIRST
    expires: 2027-01-01
  # the new one
  - sha256: SECOND
  name: a
""",
    "items that go on": """tenants:
  - name: a
    keys:
      - {sha256: FIRST,
         expires: 2027-01-01}
      - sha256:
          SECOND
""",
}


def filled(text: str) -> str:
    return text.replace("FIRST", FIRST).replace("SECOND", SECOND)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_key_is_taken_out_and_all_else_stays(layout: str) -> None:
    text = filled(LAYOUTS[layout])
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        left, name = without_key(text, "keys.yaml", order[0][:8])
        assert name == "a"
        assert list(parse_keys(left, "keys.yaml")) == [order[1]]
        assert {line for line in left.splitlines() if "#" in line and order[0] not in line} == {
            line for line in text.splitlines() if "#" in line and order[0] not in line
        }
        none, _ = without_key(left, "keys.yaml", order[1].upper())
        assert parse_keys(none, "keys.yaml") == {}


@pytest.mark.parametrize(
    ("text", "id", "said"),
    [
        (LAYOUTS["flow items"], "f" * 64, "no key begins"),
        (LAYOUTS["flow items"], FIRST[:5], "begin"),
        ("tenants: [{name: a, keys: [{sha256: FIRST}, {sha256: SECOND}]}]", FIRST, "edit the file by hand"),
    ],
)
def test_what_cannot_be_taken_out_is_left_alone(text: str, id: str, said: str) -> None:
    with pytest.raises(SettingsFileError, match=said):
        without_key(filled(text), "keys.yaml", id)


def test_the_entry_of_a_new_key_lets_its_holder_in() -> None:
    key, other = new_key(), new_key()
    assert key != other and len(key) > 40
    [(digest, holder)] = parse_keys("tenants:\n" + entry("a.b-c", key, date(2027, 1, 1)), "keys.yaml").items()
    assert (digest, holder.tenant.name) == (hash_of(key.encode()), "a.b-c")
    assert holder.key.expires is not None and holder.key.expires.date() == date(2027, 1, 1)

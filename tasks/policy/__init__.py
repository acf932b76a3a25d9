"""The policy: what one source may do to one directory, and how.

These models are the flow's parameters, so the Prefect UI shows them as a form; the same text stands under
`[sources.NAME.policy]` in crowdsync.toml, or in a YAML or TOML file that `policy_file` names. Unknown fields are
refused, what contradicts itself is refused, patterns are compiled when the policy is read, and nothing here is ever
evaluated as code.

Group and account patterns are globs (`*`, `?`), without regard to case; `re:` makes one an RE2 expression that must
match the whole name. How a value is made is in `tasks/decide/values.py`, who is in scope in `tasks/decide/filter.py`.

`models` holds the whole policy, `operations`, `scope`, `naming`, `attributes` and `limits` its larger parts; `patterns`
bounds expressions and tries them on names; `files` reads a policy from where it is written.
"""

from tasks.policy.attributes import Attributes, Step, Value, as_value
from tasks.policy.files import MAX_FILE, policy_of, read_policy, schema
from tasks.policy.limits import Approval, Canary, Limit, Limits
from tasks.policy.models import Leavers, Matching, Policy, Protection, Reads
from tasks.policy.naming import Groups, Rule, Usernames, replaced
from tasks.policy.operations import FEATURES, Operations
from tasks.policy.patterns import BY_ID, MAX_MATCHED, MAX_REPLACED, MAX_SEARCHED, PRIVILEGED, matches
from tasks.policy.scope import Condition, Conditions, ScopePolicy
from tasks.policy.section import PLAIN

__all__ = [
    "BY_ID", "FEATURES", "MAX_FILE", "MAX_MATCHED", "MAX_REPLACED", "MAX_SEARCHED", "PLAIN", "PRIVILEGED",
    "Approval", "Attributes", "Canary", "Condition", "Conditions", "Groups", "Leavers", "Limit", "Limits", "Matching",
    "Operations", "Policy", "Protection", "Reads", "Rule", "ScopePolicy", "Step", "Usernames", "Value",
    "as_value", "matches", "policy_of", "read_policy", "replaced", "schema",
]  # fmt: skip

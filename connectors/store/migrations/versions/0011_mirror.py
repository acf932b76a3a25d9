"""What identity providers push to us: users, groups and members as they gave them, and the tokens that they use."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _keys(*names: str) -> "list[sa.Column[str]]":
    return [sa.Column(name, sa.Text, primary_key=True, autoincrement=False) for name in names]


def _texts(*names: str) -> "list[sa.Column[str]]":
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _change(name: str = "change") -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "mirror_record",
        *_keys("source", "kind", "id"),
        *_texts("name", "external_id", "email", "body"),
        _change("place"),
        _change(),
        *_texts("created", "modified"),
        sa.UniqueConstraint("source", "kind", "name", name="mirror_record_name"),
    )
    for name in ("external_id", "email", "place", "change"):
        op.create_index(f"mirror_record_{name}", "mirror_record", ["source", "kind", name])
    op.create_table(
        "mirror_member",
        *_keys("source", "group_id", "member_id"),
        *_texts("kind"),
        sqlite_with_rowid=False,
    )
    op.create_index("mirror_member_of", "mirror_member", ["source", "member_id", "group_id"])
    op.create_table("mirror_gone", *_keys("source", "kind", "id"), _change(), sqlite_with_rowid=False)
    op.create_index("mirror_gone_change", "mirror_gone", ["source", "kind", "change"])
    op.create_table("mirror", *_keys("source"), _change(), sqlite_with_rowid=False)
    op.create_table(
        "token",
        *_keys("id"),
        *_texts("source", "digest", "made_at", "expires_at", "used_on", "revoked_at"),
        sa.UniqueConstraint("digest", name="token_digest"),
        sqlite_with_rowid=False,
    )

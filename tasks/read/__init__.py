"""What comes in: both sides as tables, whole or refused, validated; and what earlier runs left to be found out."""

"""The stages of the road, one file each: pure functions on tables first, the thin Prefect task last."""

"""Print the ledger: `python -m benchmarks.ledger`."""

from benchmarks.ledger import as_text, read, summary

if __name__ == "__main__":
    entries = read()
    print(as_text(entries))
    print(f"\n{summary(entries)}")
